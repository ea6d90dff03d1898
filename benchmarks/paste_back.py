"""Time from one predicted block to the written mask: back to a 320 x 320 x 20 volume's own grid, postprocessing, file.

    python benchmarks/paste_back.py [--repeats 15] [--output benchmarks/results/paste_back.json]
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from src.data.data_manager import DataManager
from src.data.geometry import Geometry
from src.data.volume_files import write_volume
from src.files import write_json
from src.inference.postprocess import DEFAULT_POSTPROCESS
from src.machine import environment
from src.report.html import package_versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/paste_back.json")
    arguments = parser.parse_args()
    angle = np.deg2rad(18)
    oblique = (1.0, 0.0, 0.0, 0.0, np.cos(angle), -np.sin(angle), 0.0, np.sin(angle), np.cos(angle))
    native = Geometry((320, 320, 20), (0.625, 0.625, 3.6), (-100.0, -90.0, -30.0), oblique)
    manager = DataManager((1.0, 1.0, 1.5), (128, 128, 64))
    block = manager.block_geometry(native)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in block.size), indexing="ij"))
    probability = (np.square(grid).sum(axis=0) < 0.3).astype(np.float32)
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.repeats):
            began = time.perf_counter()
            mask = DEFAULT_POSTPROCESS.mask(manager.paste_back(probability, block, native))
            write_volume(Path(folder) / "Case00_test.mhd", mask, native)
            seconds.append(time.perf_counter() - began)
    versions = package_versions()
    result = {"command": f"python benchmarks/paste_back.py --repeats {arguments.repeats}", **environment(),
              "versions": {name: versions[name] for name in ("SimpleITK", "numpy", "scipy")},
              "median_seconds": round(statistics.median(seconds), 4), "max_seconds": round(max(seconds), 4)}
    write_json(arguments.output, result)
    print(f"paste_back_median_seconds={result['median_seconds']}")
    print(f"paste_back_max_seconds={result['max_seconds']}")


if __name__ == "__main__":
    main()
