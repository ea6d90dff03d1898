"""Training and inference of our 2-D U-Net, of stock MindSpore's and of PyTorch's on this machine's CPU, in one run.

    python benchmarks/unet2d.py [--torch_venv DIR] [--size 256] [--batch 4] [--rounds 7]

The network is that of recipe unet2d_lgg: 3 channels, base 32, 7,763,041 parameters. Every contender lives in a process
of its own and computes one step when told to, while the others wait, so that the times alternate and a machine that
becomes slower slows down all. A step is forward, Dice loss over the batch, backward and Adam; inference is eval mode,
sigmoid, and the probability as an array. All in fp32, on all cores, on the same random pictures.

Contenders: unet2d-ours; unet2d-torch and unet2d-torch-cl, PyTorch in plain layout and channels-last, of which the
faster counts; unet2d-stock, MindSpore's own operators, one round for the magnitude (--stock). Closing lines
`name=value` are our time / PyTorch's, of medians, or `_min_` of the shortest steps, or `_cpu_` of processor time, which
says more where other programs run as well; and the ratio of the peak RSS. `taskset -c 0` gives all of them one core.

torch 2.x comes from an environment of its own, as for cpu_vs_monai.py; any that can import torch will do.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cpu_vs_monai import commit, monai_python, say, variables, versions
from cpu_vs_monai_pool import Entry, Worker, run_rounds

from src.files import write_json
from src.machine import environment

OURS, STOCK, RIVALS = "unet2d-ours", "unet2d-stock", ("unet2d-torch", "unet2d-torch-cl")


def ratios(entries: Sequence[Entry]) -> dict[str, float]:
    """Return the closing figures; a mode in which one side was not measured has none."""
    found = {}
    for mode in ("train", "infer"):
        timed = {entry.contender: entry for entry in entries if entry.mode == mode and entry.seconds}
        rivals = [timed[name] for name in RIVALS if name in timed]
        if OURS not in timed or not rivals:
            continue
        ours, best = timed[OURS], min(rivals, key=lambda entry: statistics.median(entry.seconds))
        found[f"{mode}_ratio"] = statistics.median(ours.seconds) / statistics.median(best.seconds)
        found[f"{mode}_min_ratio"] = min(ours.seconds) / min(best.seconds)
        if ours.cpu_seconds and best.cpu_seconds:
            found[f"{mode}_cpu_ratio"] = statistics.median(ours.cpu_seconds) / statistics.median(best.cpu_seconds)
        if ours.peak_rss_bytes and best.peak_rss_bytes:
            found[f"{mode}_rss_ratio"] = ours.peak_rss_bytes / best.peak_rss_bytes
        if STOCK in timed:
            found[f"{mode}_stock_ratio"] = statistics.median(ours.seconds) / min(timed[STOCK].seconds)
    return {name: round(value, 4) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="edge of the pictures")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--modes", type=lambda text: text.split(","), default=["train", "infer"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--stock", action="store_true", help="MindSpore's own operators as well")
    parser.add_argument("--limit", type=float, default=900, help="seconds that one answer may take")
    parser.add_argument("--torch_venv", type=Path, default=ROOT / "build/monai-venv")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/unet2d.json")
    arguments = parser.parse_args()
    python = monai_python(arguments.torch_venv)
    subprocess.run([sys.executable, "-m", "src.ops.build"], cwd=ROOT, check=False)  # says why, if it cannot
    result = {"command": "python " + " ".join(["benchmarks/unet2d.py", *sys.argv[1:]]), "commit": commit(),
              **environment(), "versions": {"ours": versions(Path(sys.executable), "mindspore", "numpy"),
                                            "torch": versions(python, "torch", "numpy")}}
    log = Path(tempfile.mkdtemp(prefix="vnet-benchmark-")) / "workers.log"
    say(f"what the workers print goes to {log}")
    entries: list[Entry] = []
    for mode in arguments.modes:
        names = [OURS, *RIVALS, *([STOCK] if arguments.stock else [])]
        fresh = [Entry(mode, f"{arguments.size}x{arguments.size}", arguments.batch, name) for name in names]
        entries += fresh
        say(f"{mode}, {fresh[0].size}, batch {arguments.batch}")
        run_rounds([Worker(entry, python if entry.contender in RIVALS else Path(sys.executable),
                           variables("monai" if entry.contender in RIVALS else entry.contender), log)
                    for entry in fresh],
                   arguments.rounds, arguments.rounds, time.perf_counter(), arguments.limit, profiled=True, say=say)
    figures = ratios(entries)
    write_json(arguments.output, {**result, "ratios": figures, "entries": [entry.to_dict() for entry in entries]})
    for entry in entries:
        median = f"{entry.median:.3f} s, cpu {statistics.median(entry.cpu_seconds):.3f} s" if entry.median else "-"
        rss = f"{(entry.peak_rss_bytes or 0) / 2**20:.0f} MiB"
        print(f"{entry.mode:6s} {entry.contender:16s} median {median}, {rss}  {entry.note}")
    for name, value in figures.items():
        print(f"{name}={value:.3f}")


if __name__ == "__main__":
    main()
