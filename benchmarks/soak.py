"""A thousand whole training steps on the CPU kernels: does memory stay flat, and do equal seeds give equal bits?

    python benchmarks/soak.py [--steps 1000] [--size 32x32x32] [--base_channels 16] [--output ...]

A step is forward, Dice loss, backward, global-norm clipping and Adam, on a new random volume each time, as train.py
computes it. Two processes with the same seed and number of threads run one after the other; resident memory is read
from /proc every tenth of the way, and the digests are SHA-256 over all parameters and moments at the end. Closing
lines: growth of resident memory from a tenth of the way to the end, whether the digests are equal, and what the kernels
keep of scratch memory.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from src.files import write_json
from src.machine import environment


def resident_mib() -> float:
    """Return this process's resident memory."""
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def run(steps: int, size: tuple[int, ...], base_channels: int) -> dict[str, object]:
    """Train in this process and return resident memory in MiB by step, the digest, and seconds a step."""
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor

    from src.backend import create_backend
    from src.losses import build_loss
    from src.networks import build_network
    from src.ops.select import kernels
    from src.overrides import load_recipe
    from src.training.train_step import TrainStep

    recipe = load_recipe(overrides=[f"VolSize={list(size)}", f"base_channels={base_channels}", "batch_size=1",
                                    "seed=1"])
    backend = create_backend("CPU", recipe=recipe)
    library = kernels()
    if library is None:
        raise SystemExit("the CPU kernels could not be built; see above")
    cell = TrainStep(build_network(recipe), build_loss(recipe), recipe, backend)
    cell.set_train(True)
    rng = np.random.default_rng(1)
    resident = {}
    began = time.perf_counter()
    for step in range(1, steps + 1):
        image = Tensor(rng.normal(size=(1, 1, *size)).astype(np.float32))
        label = Tensor((rng.random((1, *size)) > 0.9).astype(np.float32))
        cell(image, label, Tensor(1e-4, ms.float32))[0].asnumpy()
        if step % max(1, steps // 10) == 0 or step == steps:
            resident[step] = round(resident_mib(), 1)
    digest = hashlib.sha256()
    for parameter in sorted(cell.get_parameters(), key=lambda parameter: parameter.name):
        digest.update(parameter.asnumpy().tobytes())
    return {"resident_mib": resident, "scratch_mib": library.scratch_bytes / 2**20, "digest": digest.hexdigest(),
            "threads": library.threads, "seconds_a_step": (time.perf_counter() - began) / steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--size", default="32x32x32")
    parser.add_argument("--base_channels", type=int, default=16)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/soak.json")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        write_json(args.worker, run(args.steps, tuple(map(int, args.size.split("x"))), args.base_channels))
        return
    runs = []
    with tempfile.TemporaryDirectory(prefix="vnet-soak-") as folder:
        for number in range(2):
            result = Path(folder) / f"{number}.json"
            subprocess.run([sys.executable, __file__, "--worker", str(result), "--steps", str(args.steps), "--size",
                            args.size, "--base_channels", str(args.base_channels)], check=True)
            runs.append(json.loads(result.read_text()))
    figures = {"rss_growth_mib": max(list(run["resident_mib"].values())[-1] - list(run["resident_mib"].values())[0]
                                     for run in runs),
               "bit_equal": int(runs[0]["digest"] == runs[1]["digest"]), "scratch_mib": runs[0]["scratch_mib"]}
    write_json(args.output, {"command": "python " + " ".join(["benchmarks/soak.py", *sys.argv[1:]]),
                             "environment": environment(), "runs": runs, "figures": figures})
    for run_figures in runs:
        print(run_figures)
    for key, value in figures.items():
        print(f"{key}={value}")


if __name__ == "__main__":
    main()
