"""Train with Winograd and with direct convolutions on real data and compare the curves of validation Dice.

    python benchmarks/algorithms.py [--seeds 1,2,3] [--output benchmarks/results/algorithms.json]

Each run is train.py with the quick start's configuration on data/sample; only the seed and `conv_algorithm` differ.
Two curves are apart by the largest difference of their Dice at any epoch. Closing lines: the mean over seeds of the
last Dice of each algorithm; how far apart the two algorithms' curves of one seed are, the mean over seeds; and how far
apart the curves of two seeds of one algorithm are, the mean over pairs of seeds and algorithms: the noise between runs.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from src.files import write_json
from src.machine import environment

ALGORITHMS = ("winograd", "direct")


def curve(algorithm: str, seed: int, val_every: int, folder: Path) -> dict[str, list[float]]:
    """Train once and return the validated epochs, their Dice and all losses."""
    run = folder / f"{algorithm}-{seed}"
    sample = ROOT / "data/sample"
    command = [sys.executable, "train.py", "--config", "configs/quickstart.json", "--device_target", "CPU",
               "--data_path", str(sample), "--train_split_file_path", str(sample / "train.csv"),
               "--val_split_file_path", str(sample / "val.csv"), "--run_dir", str(run),
               "--set", f"conv_algorithm={algorithm}", f"seed={seed}", f"val_every={val_every}"]
    with (folder / f"{run.name}.log").open("w") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{Path(log.name).read_text()[-2000:]}")
    history = pd.read_csv(run / "history.csv")
    validated = history.dropna(subset=["val_dice"])
    return {"epoch": validated["epoch"].tolist(), "dice": validated["val_dice"].tolist(),
            "loss": history["loss"].tolist()}


def apart(one: dict[str, list[float]], other: dict[str, list[float]]) -> float:
    """Return the largest difference of two runs' Dice at any epoch."""
    return max(abs(a - b) for a, b in zip(one["dice"], other["dice"], strict=True))


def summary(curves: dict[str, dict[str, dict[str, list[float]]]]) -> dict[str, float]:
    """Return the closing figures of curves[algorithm][seed]."""
    last = {name: [run["dice"][-1] for run in runs.values()] for name, runs in curves.items()}
    between = [apart(curves["winograd"][seed], curves["direct"][seed]) for seed in curves["winograd"]]
    noise = [apart(*pair) for runs in curves.values() for pair in itertools.combinations(runs.values(), 2)]
    return {"dice_winograd": statistics.mean(last["winograd"]), "dice_direct": statistics.mean(last["direct"]),
            "apart_by_algorithm": statistics.mean(between), "apart_by_seed": statistics.mean(noise)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=lambda text: text.split(","), default=["1", "2", "3"])
    parser.add_argument("--val_every", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/algorithms.json")
    args = parser.parse_args()
    if len(args.seeds) < 2:
        parser.error("at least two seeds: the noise between them is what the algorithms are compared with")
    curves: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in ALGORITHMS}
    with tempfile.TemporaryDirectory(prefix="vnet-algorithms-") as folder:
        for seed in args.seeds:
            for name in ALGORITHMS:
                curves[name][seed] = curve(name, int(seed), args.val_every, Path(folder))
                dice = " ".join(f"{value:.4f}" for value in curves[name][seed]["dice"])
                print(f"{name:8s} seed {seed}: Dice {dice}", flush=True)
    figures = summary(curves)
    write_json(args.output, {"command": "python " + " ".join(["benchmarks/algorithms.py", *sys.argv[1:]]),
                             "environment": environment(), "curves": curves, "figures": figures})
    for key, value in figures.items():
        print(f"{key}={value:.4f}")


if __name__ == "__main__":
    main()
