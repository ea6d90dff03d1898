"""Augmented samples a second of the training loader, of each transform by itself and of all of them together.

    python benchmarks/augment.py [--sizes 128x128x64 128x128x32] [--samples 24]
                                 [--output benchmarks/results/augment.json]

One case after the other, with nothing trained beside them; `cpu_ms` is what a sample takes of a core's time.
"""

import argparse
import dataclasses
import itertools
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from src.data.augment import Augmentation
from src.data.data_manager import Sample
from src.data.dataset import BatchLoader
from src.data.geometry import Geometry
from src.data.patches import PatchSampler
from src.files import write_json
from src.machine import environment
from src.overrides import load_recipe
from src.report.html import package_versions

SPACING = (1.0, 1.0, 1.5)
CASES = 4
MARGIN = 1.25  # of the volumes that patches are cut out of


def make_samples(size: tuple[int, ...]) -> list[Sample]:
    """Make cases of noise within black, with an ellipsoid of class 1 in the middle."""
    rng = np.random.default_rng(0)
    radius = sum((np.linspace(-1, 1, n).reshape([-1 if axis == k else 1 for k in range(3)])) ** 2
                 for axis, n in enumerate(size))
    grid = Geometry((size[0], size[1], size[2]), SPACING)
    return [Sample(f"Case{number:02d}", np.where(radius < 1.5, rng.normal(number, 1, size).clip(-3), -4).astype("f4"),
                   (radius < 0.2).astype(np.uint8), grid, grid) for number in range(CASES)]


def configurations() -> dict[str, Augmentation | None]:
    """Return what is measured: nothing, each transform and all of them at every sample, and the recipe's shares."""
    names = [field.name for field in dataclasses.fields(Augmentation)
             if field.name not in ("mirror_axes", "scale_range")]  # those are no probabilities
    single = {name: Augmentation(**{name: 1.0}, mirror_axes=(0,)) for name in names}
    return {"none": None, **single, "all": Augmentation(**dict.fromkeys(names, 1.0), mirror_axes=(0,)),
            "recipe": Augmentation.from_recipe(load_recipe())}


def measure(loader: BatchLoader, count: int) -> dict[str, float]:
    """Return samples a second and the processor's milliseconds a sample, after one sample to warm up."""
    batches = itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count())
    next(batches)
    began, cpu = time.perf_counter(), time.process_time()
    for _ in itertools.islice(batches, count):
        pass
    seconds, busy = time.perf_counter() - began, time.process_time() - cpu
    loader.close()
    return {"samples_per_second": round(count / seconds, 1), "cpu_ms": round(1000 * busy / count, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["128x128x64", "128x128x32"])
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/augment.json")
    arguments = parser.parse_args()
    versions = package_versions()
    results: dict[str, dict[str, dict[str, float]]] = {}
    for text in arguments.sizes:
        x, y, z = (int(count) for count in text.split("x"))
        samples = make_samples((x, y, z))
        results[text] = {}
        for name, augmentation in configurations().items():
            loader = BatchLoader(samples, 1, seed=1, augmentation=augmentation)
            results[text][name] = measure(loader, arguments.samples)
        volumes = make_samples(tuple(round(MARGIN * n) for n in (x, y, z)))
        loader = BatchLoader(volumes, 1, seed=1, augmentation=configurations()["recipe"],
                             patches=PatchSampler((x, y, z), 0.33, per_case=2))
        results[text]["recipe, patches"] = measure(loader, arguments.samples)
        for name, found in results[text].items():
            print(f"{text:>12} {name:<16} {found['samples_per_second']:>8} samples/s {found['cpu_ms']:>8} ms of a core")
    command = f"python benchmarks/augment.py --sizes {' '.join(arguments.sizes)} --samples {arguments.samples}"
    write_json(arguments.output, {"command": command, **environment(),
                                  "versions": {name: versions[name] for name in ("numpy", "scipy")},
                                  "probabilities": dataclasses.asdict(Augmentation.from_recipe(load_recipe())),
                                  "results": results})


if __name__ == "__main__":
    main()
