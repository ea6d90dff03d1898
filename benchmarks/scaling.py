"""Data-parallel training on 1 to N ranks of one thread each: how much faster are N ranks than one?

    python benchmarks/scaling.py [--ranks 1,2] [--size 128x128x64] [--batch 1] [--rounds 3] [--sockets]

Weak scaling keeps the batch of each rank: throughput of N ranks / (N x throughput of one). Strong scaling keeps the
global batch, that of the largest number of ranks in the weak case. A step is the default recipe's as train.py computes
it: forward, Dice loss, backward, mean over the ranks, Adam. Every job lives in processes of its own that wait while
another one computes, so that times alternate (A B A B, every other round backwards); the figures are medians.

The share of the mean over ranks is what the kernel's own clock says of a step (part of it is waiting for the slower
rank); `all_reduce_seconds` is the mean alone, without a step around it. --sockets adds the same ranks with MindSpore's
all-reduce in place of the shared memory. The last line is weak_scaling_N of the largest N.
"""

import argparse
import importlib.metadata
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scaling_jobs import Job

from src.files import write_json
from src.machine import environment


def plan_jobs(ranks: Sequence[int], batch: int, sockets: bool) -> dict[str, tuple[int, int, str]]:
    """Return the jobs by name: number of ranks, batch of each rank, way of the mean.

    Raises:
        ValueError: the global batch of the largest number of ranks cannot be shared out evenly among another.
    """
    largest = max(ranks)
    jobs = {}
    for number in sorted({1, *ranks}):
        if batch * largest % number:
            raise ValueError(f"--ranks: a global batch of {batch * largest} cannot be shared among {number} ranks")
        for share in (batch, batch * largest // number):
            jobs[f"{number}x{share}"] = (number, share, "auto")
    if sockets and largest > 1:
        jobs[f"{largest}x{batch}-sockets"] = (largest, batch, "sockets")
    return jobs


def figures(jobs: Mapping[str, tuple[int, int, str]], turns: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
            means: Mapping[str, Sequence[Mapping[str, Any]]], batch: int) -> dict[str, float]:
    """Return the closing figures.

    Args:
        jobs: see `plan_jobs`.
        turns: what the ranks said of their steps, by job, turn and rank.
        means: what they said of the mean alone, by job and rank.
        batch: of each rank in the weak case.
    """
    seconds = {name: statistics.median(second for turn in turns[name] for second in _slowest(turn, "seconds"))
               for name in jobs}
    throughput = {name: ranks * share / seconds[name] for name, (ranks, share, _) in jobs.items()}
    largest = max(ranks for ranks, _, _ in jobs.values())
    result: dict[str, float] = {}
    for name, (ranks, share, way) in jobs.items():
        kind = "_sockets" if way == "sockets" else ""
        result[f"step_seconds_{ranks}x{share}{kind}"] = seconds[name]
        result[f"throughput_{ranks}x{share}{kind}"] = throughput[name]
        if ranks == 1:
            continue
        result[f"all_reduce_seconds_{ranks}x{share}{kind}"] = statistics.median(_slowest(means[name], "seconds"))
        if not kind:  # MindSpore's all-reduce has no clock of its own within a step
            result[f"all_reduce_share_{ranks}x{share}"] = _median(turns[name], "in_mean") / seconds[name]
            result[f"waiting_share_{ranks}x{share}"] = _median(turns[name], "waiting") / seconds[name]
        if share * ranks == batch * largest:
            result[f"strong_scaling_{ranks}{kind}"] = throughput[name] / (ranks * throughput[f"1x{batch * largest}"])
    for name, (ranks, share, way) in reversed(jobs.items()):
        if ranks > 1 and share == batch:
            key = f"weak_scaling_{ranks}{'_sockets' if way == 'sockets' else ''}"
            result[key] = throughput[name] / (ranks * throughput[f"1x{batch}"])
    # The last line is the plain one of the largest number of ranks.
    return {**result, **{key: result.pop(key) for key in [f"weak_scaling_{largest}"] if key in result}}


def _slowest(turn: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """Return, for each step of a turn, the largest value of any rank."""
    return [max(values) for values in zip(*(rank[key] for rank in turn), strict=True)]


def _median(turns: Sequence[Sequence[Mapping[str, Any]]], key: str) -> float:
    return statistics.median(value for turn in turns for rank in turn for value in rank[key])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2])
    parser.add_argument("--size", default="128x128x64")
    parser.add_argument("--batch", type=int, default=1, help="of each rank in the weak case")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="of each job in a round")
    parser.add_argument("--sockets", action="store_true", help="measure MindSpore's all-reduce as well")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/scaling.json")
    args = parser.parse_args()
    plan = plan_jobs(args.ranks, args.batch, args.sockets)
    turns: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in plan}
    means = {}
    with tempfile.TemporaryDirectory(prefix="vnet-scaling-") as folder:
        jobs: dict[str, Job] = {}
        try:
            for name, (ranks, batch, way) in plan.items():
                jobs[name] = Job(Path(folder), name, ranks, args.size, batch, way)
                first = jobs[name].ask(steps=2)  # compiles, and touches all memory
                print(f"{name} is ready, first step {first[0]['seconds'][0]:.1f} s: {first[0]}", flush=True)
            for number in range(args.rounds):
                for name in list(plan)[::-1] if number % 2 else plan:
                    turns[name].append(jobs[name].ask(steps=args.steps))
                    print(f"round {number + 1}, {name}: " + ", ".join(
                        f"{second:.2f}" for second in _slowest(turns[name][-1], "seconds")) + " s", flush=True)
            for name, (ranks, _, _) in plan.items():
                if ranks > 1:
                    jobs[name].ask(means=1)
                    means[name] = jobs[name].ask(means=5)
        finally:
            for job in jobs.values():
                job.end()
    result = figures(plan, turns, means, args.batch)
    write_json(args.output, {
        "command": "python " + " ".join(["benchmarks/scaling.py", *sys.argv[1:]]), "environment": environment(),
        "mindspore": importlib.metadata.version("mindspore"), "size": args.size, "threads_a_rank": 1, "turns": turns,
        "means": means, "figures": result})
    for key, value in result.items():
        print(f"{key}={value:.4f}")


if __name__ == "__main__":
    main()
