"""Training and inference of our V-Net, of stock MindSpore's and of MONAI's (PyTorch) on this machine's CPU, in one run.

    python benchmarks/cpu_vs_monai.py [--monai_venv DIR] [--minutes 25]
    python benchmarks/cpu_vs_monai.py --sizes 64x64x32 --batches 1 --rounds 3      # the short form, some 4 minutes

Every contender lives in a process of its own and computes one step when told to, while the others wait, so that the
times alternate (A B A B, every other round backwards) and a machine that becomes slower slows down all. A step is
forward, Dice loss, backward and Adam with weight decay; inference is eval mode, softmax, and the probability as an
array. Every contender gets the same fixed random volumes. MONAI's VNet has 45,597,898 parameters, ours 45,600,316.

Contenders: ours-fp32, ours-bf16 (amp_level bf16), stock (MindSpore's operators, one round at 64x64x32 and batch 1
only), and monai-{fp32,bf16}[-cl]: PyTorch in fp32 or bf16 autocast, plain or channels_last_3d. Those of MONAI that are
slower than the best of their precision by a tenth in the first round leave then, and do not start at larger batches;
the best counts. monai-...-compile (torch.compile) runs on request only: it was slower, its first step takes minutes.

First step: from the start of the process to the end of its first step, with the kernel library built and the
interpreter's files in the page cache; for ours with the compilation of the graph. Peak RSS: ru_maxrss of a process that
only trains, or only infers. Closing lines `name=value` are our time / MONAI's at batch 1, of medians, or `_min_` of the
shortest steps; rss_ratio compares the peak RSS of training processes at equal precision, the larger ratio of fp32 and
bf16, and rss_best_ratio that of the fastest configurations, whatever their precisions. The table has both precisions.

MONAI and torch have an environment of their own, made at the first run by pip install torch==2.13.0 monai==1.6.1. Any
torch 2.x in --monai_venv will do: PyPI's on Linux brings CUDA along, some gigabytes, the CPU build is smaller and as
fast. This script itself runs under the project's environment.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cpu_vs_monai_pool import Entry, Worker, losers, run_rounds
from cpu_vs_monai_report import closing_lines, closing_ratios, group, share_table, table, warnings

from src.files import write_json
from src.machine import environment

MONAI_PACKAGES = ("torch==2.13.0", "monai==1.6.1")
MONAI_VARIANTS = ("monai-fp32", "monai-fp32-cl", "monai-bf16", "monai-bf16-cl")
STOCK_VOXELS = 64 * 64 * 32  # the largest step of stock MindSpore that ends in reasonable time
# Imports what a worker imports, so that its files are in memory before any start is timed.
VERSIONS = """
import importlib, importlib.metadata, json, platform, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps({"python": platform.python_version(), **{n: importlib.metadata.version(n) for n in sys.argv[1:]}}))
"""


def say(text: str) -> None:
    """Print a line of progress with the time."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=names, default=["128x128x64", "64x64x32"], help="comma-separated, X x Y x Z")
    parser.add_argument("--batches", type=names, default=["1", "2"])
    parser.add_argument("--modes", type=names, default=["train", "infer"])
    parser.add_argument("--ours", type=names, default=["fp32", "bf16"], help="our precisions")
    parser.add_argument("--contenders", type=names, help="these only, by their full names")
    parser.add_argument("--rounds", type=int, default=7, help="most rounds; at least 3 at batch 1, 2 above, if so many")
    parser.add_argument("--minutes", type=float, default=25, help="no round above the least begins after its share")
    parser.add_argument("--limit", type=float, default=300, help="seconds that a single start or step may take")
    parser.add_argument("--monai_venv", type=Path, default=ROOT / "build/monai-venv")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/cpu_vs_monai.json")
    return parser.parse_args()


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def monai_python(folder: Path) -> Path:
    """Return the interpreter of MONAI's environment, which is made where there is none."""
    python = folder / "bin/python"
    if not python.exists():
        say(f"making {folder} with {', '.join(MONAI_PACKAGES)}: some minutes, once")
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
        try:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *MONAI_PACKAGES], check=True)
        except subprocess.CalledProcessError:
            python.unlink()  # half made: tried again next time
            raise SystemExit(f"pip could not install {' '.join(MONAI_PACKAGES)}; see above. An environment that has "
                             "torch and monai can be given by --monai_venv DIR") from None
    return python


def versions(python: Path, *packages: str) -> dict[str, str]:
    """Import the packages in another interpreter and return their versions."""
    done = subprocess.run([str(python), "-c", VERSIONS, *packages], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python} cannot import {', '.join(packages)}; see above")
    return json.loads(done.stdout.splitlines()[-1])


def commit() -> str:
    """Return the commit of the working tree, and whether it was changed since."""
    def git(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "HEAD") + (" with changes" if git("status", "--porcelain", "src", "benchmarks") else "")


def variables(contender: str) -> Mapping[str, str]:
    """Return the environment variables of a worker: all cores for everyone, huge pages for PyTorch (8 % faster)."""
    common = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    return {**common, "THP_MEM_ALLOC_ENABLE": "1"} if contender.startswith("monai") else common


def voxels(size: str) -> int:
    return math.prod(int(edge) for edge in size.split("x"))


def wanted(arguments: argparse.Namespace, earlier: list[Entry], mode: str, size: str, batch: int) -> list[str]:
    """Return the contenders of a group: not those that lost at a smaller batch, and stock only where it ends."""
    ours = [f"ours-{precision}" for precision in arguments.ours]
    contenders = arguments.contenders or [*ours, "stock", *MONAI_VARIANTS]
    lost: set[str] = set()
    for smaller in sorted({entry.batch for entry in earlier if entry.batch < batch}):
        lost |= losers(group(earlier, mode, size, smaller))
    small = voxels(size) * batch <= STOCK_VOXELS
    return [name for name in contenders if name not in lost and (name != "stock" or small)]


def measure(arguments: argparse.Namespace, python: Path, entries: list[Entry]) -> None:
    """Run all groups, largest volumes first, batch 1 first; `entries` grows as they are measured."""
    groups = [(mode, size, int(batch)) for batch in sorted(arguments.batches, key=int)
              for size in sorted(arguments.sizes, key=voxels, reverse=True) for mode in arguments.modes]
    weights = [voxels(size) * batch * (3 if mode == "train" else 1) for mode, size, batch in groups]
    end = time.perf_counter() + 60 * arguments.minutes
    log = Path(tempfile.mkdtemp(prefix="vnet-benchmark-")) / "workers.log"
    say(f"what the workers print goes to {log}")
    for number, (mode, size, batch) in enumerate(groups):
        now = time.perf_counter()
        deadline = now + (end - now) * weights[number] / sum(weights[number:])
        fresh = [Entry(mode, size, batch, name) for name in wanted(arguments, entries, mode, size, batch)]
        say(f"{mode} {size} batch {batch}: {', '.join(entry.contender for entry in fresh)}")
        entries += fresh
        workers = [Worker(entry, python if entry.contender.startswith("monai") else Path(sys.executable),
                          variables(entry.contender), log) for entry in fresh]
        least = min(3 if batch == 1 else 2, arguments.rounds)
        run_rounds(workers, least, arguments.rounds, deadline, arguments.limit, profiled=batch == 1, say=say)


def main() -> None:
    arguments = parse_arguments()
    began = time.perf_counter()
    python = monai_python(arguments.monai_venv)
    subprocess.run([sys.executable, "-m", "src.ops.build"], cwd=ROOT, check=False)  # says why, if it cannot
    result = {"command": "python " + " ".join(["benchmarks/cpu_vs_monai.py", *sys.argv[1:]]), "commit": commit(),
              **environment(), "versions": {"ours": versions(Path(sys.executable), "mindspore", "numpy"),
                                            "monai": versions(python, "torch", "monai", "numpy")}}
    entries: list[Entry] = []
    try:
        measure(arguments, python, entries)
    finally:
        ratios = closing_ratios(entries)
        write_json(arguments.output, {**result, "minutes": round((time.perf_counter() - began) / 60, 1),
                                      "ratios": ratios, "entries": [entry.to_dict() for entry in entries]})
    print("\n" + table(entries) + "\n\n" + share_table(entries) + "\n")
    for warning in warnings(entries):
        print(f"warning: {warning}")
    print("\n".join(closing_lines(ratios)))
    if any(entry.note.startswith("failed") for entry in entries):
        sys.exit(1)


if __name__ == "__main__":
    main()
