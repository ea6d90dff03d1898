"""What it brings to leave one thread to MindSpore while the CPU kernels compute (src/backend.py).

    python benchmarks/threads.py [--rounds 3] [--size 64x64x32] [--steps 12]

Processes take turns, A B A B: A trains as train.py does; B leaves MindSpore's own number of threads as it comes. Each
gives the median of its step times but for the first two, and their spread. Closing line: the median over rounds of
A's step / B's step.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from src.files import write_json
from src.machine import environment

WAYS = ("one thread", "as it comes")


def run(way: str, size: tuple[int, ...], steps: int) -> list[float]:
    """Train in this process and return the seconds of each step but for the first two."""
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor

    from src import backend as module
    from src.losses import build_loss
    from src.networks import build_network
    from src.overrides import load_recipe
    from src.training.train_step import TrainStep

    if way == "as it comes":
        module._quiet_mindspore = lambda: None
    recipe = load_recipe(overrides=[f"VolSize={list(size)}", "batch_size=1"])
    backend = module.create_backend("CPU", recipe=recipe)
    cell = TrainStep(build_network(recipe), build_loss(recipe), recipe, backend)
    cell.set_train(True)
    rng = np.random.default_rng(1)
    image = Tensor(rng.normal(size=(1, 1, *size)).astype(np.float32))
    label = Tensor((rng.random((1, *size)) > 0.9).astype(np.float32))
    seconds = []
    for _ in range(steps + 2):
        began = time.perf_counter()
        cell(image, label, Tensor(1e-4, ms.float32))[0].asnumpy()
        seconds.append(time.perf_counter() - began)
    return seconds[2:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="64x64x32")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/threads.json")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        way, result = args.worker
        write_json(Path(result), run(way, tuple(map(int, args.size.split("x"))), args.steps))
        return
    seconds: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="vnet-threads-") as folder:
        for _ in range(args.rounds):
            for way in WAYS:
                result = Path(folder) / "seconds.json"
                subprocess.run([sys.executable, __file__, "--worker", way, str(result), "--size", args.size, "--steps",
                                str(args.steps)], check=True)
                seconds[way].append(json.loads(result.read_text()))
                print(f"{way:12s} median {statistics.median(seconds[way][-1]):.3f} s, {min(seconds[way][-1]):.3f} to "
                      f"{max(seconds[way][-1]):.3f} s", flush=True)
    ratio = statistics.median(statistics.median(a) / statistics.median(b)
                              for a, b in zip(*(seconds[way] for way in WAYS), strict=True))
    write_json(args.output, {"command": "python " + " ".join(["benchmarks/threads.py", *sys.argv[1:]]),
                             "environment": environment(), "seconds": seconds, "threads_ratio": ratio})
    print(f"threads_ratio={ratio:.3f}")


if __name__ == "__main__":
    main()
