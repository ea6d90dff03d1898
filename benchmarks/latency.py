"""From an image file to its mask file, stage by stage, on every way to run the V-Net here.

    python benchmarks/latency.py [--rounds 5] [--size 128x128x64]

The network is the default recipe's with random weights, 45.6 M parameters; the image a generated one of 320 x 320 x 32
voxels of 0.6 x 0.6 x 3.5 mm. Every contender lives in a process of its own and takes one case through all stages when
told to, while the others wait, so that the times alternate. Stages: read, preprocess (to the network's block), network,
postprocess (back to the image's grid, threshold, largest component), write; the C++ program's cases also go out and
back as files, `bins`. The first case of each, which compiles and warms up, is left out.

Contenders: kernels (graph mode, the project's CPU kernels); graph, eager, mindir (MindSpore's
operators); onnxruntime; openvino from Python; cpp, the program of ascend310_infer with --device CPU. Prints a table and
`whole_over_network=`, that of the CPU kernels, and writes JSON.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cpu_vs_monai import commit, say, variables, versions
from cpu_vs_monai_pool import Entry, Worker, run_rounds
from latency_ours import FOLDER_VARIABLE, STAGES

from src.backend import create_backend
from src.checkpoint import save_checkpoint
from src.data.geometry import Geometry
from src.data.volume_files import write_volume
from src.files import write_json
from src.inference.export import export_checkpoint
from src.machine import environment
from src.metrics.text import text_table
from src.networks import build_network
from src.ops.select import stock_kernels
from src.overrides import load_recipe, plain

CONTENDERS = ("kernels", "onnxruntime", "openvino", "cpp", "graph", "mindir", "eager")
PACKAGES = ("mindspore", "numpy", "SimpleITK", "onnxruntime", "openvino")


def make_image(path: Path) -> None:
    """Write a smooth random volume with a bright ellipsoid, of a prostate scan's usual size."""
    size, spacing = (320, 320, 32), (0.6, 0.6, 3.5)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij"))
    noise = np.random.default_rng(1).normal(0, 30, size)
    image = 200 + 150 * (np.square(grid / 0.4).sum(axis=0) < 1) + noise
    # PROMISE12's own files have no compression.
    write_volume(path, image.clip(0, 2000).astype(np.int16), Geometry(size, spacing, (0.0, 0.0, 0.0)), compress=False)


def prepare(folder: Path, size: str) -> None:
    """Write checkpoint, bundle and image into the folder, and build the C++ program there."""
    create_backend("CPU")
    recipe = load_recipe(overrides=[f"VolSize=[{size.replace('x', ',')}]"])
    with stock_kernels():
        save_checkpoint(folder / "vnet.ckpt", build_network(recipe), {
            "recipe": plain(recipe), "recipe_name": "vnet_promise12", "epoch": 0, "step": 0, "best_dice": None})
    export_checkpoint(folder / "vnet.ckpt", str(folder / "vnet"), ("MINDIR", "ONNX"))
    make_image(folder / "Case00.mhd")
    build = folder / "build"
    for command in (["cmake", "-S", ROOT / "ascend310_infer", "-B", build, "-DCMAKE_BUILD_TYPE=Release",
                     "-DBUILD_TESTING=OFF"],
                    ["cmake", "--build", build, "-j2"]):
        if subprocess.run(command, check=False, env={**os.environ, "PYTHON": sys.executable}).returncode:
            say("the C++ program cannot be built here; see above")
            return


def table(entries: list[Entry]) -> str:
    """Return the median milliseconds of each stage."""
    stages = [*STAGES[:2], "network", "bins", *STAGES[3:], "whole"]
    body = [[entry.contender.removeprefix("latency-"),
             *(f"{1000 * entry.profile[stage]:.0f}" if stage in entry.profile else "-" for stage in stages)]
            for entry in entries if entry.profile]
    return text_table(["ms", *stages], body, [f"{entry.contender}: {entry.note}" for entry in entries if entry.note])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="128x128x64")
    parser.add_argument("--contenders", type=lambda text: text.split(","), default=list(CONTENDERS))
    parser.add_argument("--limit", type=float, default=900, help="seconds that one answer may take")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/latency.json")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="vnet-latency-"))
    os.environ[FOLDER_VARIABLE] = str(folder)
    prepare(folder, arguments.size)
    entries = [Entry("infer", arguments.size, 1, f"latency-{name}") for name in arguments.contenders]
    log = folder / "workers.log"
    say(f"what the workers print goes to {log}")
    run_rounds([Worker(entry, Path(sys.executable), variables(entry.contender), log) for entry in entries],
               arguments.rounds, arguments.rounds, time.perf_counter(), arguments.limit, profiled=True, say=say)
    print(table(entries))
    figures = {}
    for entry in entries:
        if entry.contender == "latency-kernels" and entry.profile:
            figures["whole_over_network"] = round(entry.profile["whole"] / entry.profile["network"], 3)
    write_json(arguments.output, {
        "command": "python " + " ".join(["benchmarks/latency.py", *sys.argv[1:]]), "commit": commit(), **environment(),
        "versions": versions(Path(sys.executable), *PACKAGES), "figures": figures,
        "entries": [entry.to_dict() for entry in entries]})
    for name, value in figures.items():
        print(f"{name}={value}")
    shutil.rmtree(folder)  # half a GB of models; after a failure it stays, with the log that tells why


if __name__ == "__main__":
    main()
