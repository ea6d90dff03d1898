"""The 3-D U-Net split over two CPU ranks of one thread each: what micro-batches gain.

    python benchmarks/pipeline.py [--size 64x64x31] [--micro_batches 16] [--rounds 5] [--split auto] [--output ...]

Three ways, alternating within each round, all with the same split and the same two processes, in volumes a second:

    micro_batches   steps of M micro-batches of one volume each, 1F1B
    one_volume      steps of one volume without micro-batches: the published attempt's way; one rank waits for the other
    whole_batch     steps of M volumes as one batch without micro-batches: the same waiting, fewer updates

and one_device: one process of one thread with all blocks, M micro-batches, before the two. A step is forward, binary
cross-entropy, backward and Adam, on random volumes. For each rank and way: share of the time that it was busy, MB sent
a volume; and its largest resident memory. Speed-ups are medians over the rounds of a round's ratio. Last line: the one
over the better of the two ways without micro-batches.
"""

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from src.files import write_json
from src.machine import environment

WAYS = ("micro_batches", "one_volume", "whole_batch")


def run_rank(args: argparse.Namespace) -> dict[str, Any]:
    """Be one rank, or with rank -1 the only device; return what it measured."""
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor

    from src.backend import create_backend
    from src.losses import build_loss
    from src.networks import build_network
    from src.overrides import load_recipe
    from src.training.pipeline import MicroBatchStep
    from src.training.pipeline_balance import BlockTimes, measure_blocks
    from src.training.pipeline_channel import LocalChannel

    recipe = load_recipe("unet3d_brain", overrides=[f"micro_batches={args.micro_batches}"])
    create_backend("CPU", recipe=recipe)
    ms.set_seed(recipe.seed)
    network, loss = build_network(recipe), build_loss(recipe)
    network.set_train(True)
    rng = np.random.default_rng(1)
    size = tuple(map(int, args.size.split("x")))
    image = rng.random((args.micro_batches, 4, *size), dtype=np.float32)
    label = (rng.random((args.micro_batches, *size)) > 0.9).astype(np.float32)
    rate = Tensor(recipe.lr, ms.float32)
    times = None
    if args.rank < 0:
        step = MicroBatchStep(network, loss, recipe)
    else:
        channel = LocalChannel(socket.socket(fileno=args.connection))
        split = args.split
        if split == "auto":
            own = measure_blocks(network, loss, image[:1], label[:1])
            # In fp32, so that both ranks compare the same numbers.
            sent = np.array([own.forward, own.backward], np.float32)
            channel.send([Tensor(sent)])
            both = sent, channel.receive()[0].asnumpy()
            times = BlockTimes.fastest([BlockTimes(*array.tolist()) for array in both])
            split = times.best_split()
        step = MicroBatchStep(network, loss, recipe, args.rank, int(split), channel)
    step.set_train(True)

    def train(way: str) -> dict[str, float]:
        """Train on all volumes in one of `WAYS`, and return seconds, busy seconds and bytes sent."""
        step.micro_batches = args.micro_batches if way == "micro_batches" else 1
        sent = step.channel.bytes_sent if step.channel else 0
        busy, began = step.times.busy, time.perf_counter()
        if way == "one_volume":
            for i in range(args.micro_batches):
                step(Tensor(image[i:i + 1]), Tensor(label[i:i + 1]), rate)
        else:
            step(Tensor(image), Tensor(label), rate)
        return {"seconds": time.perf_counter() - began, "busy_seconds": step.times.busy - busy,
                "bytes_sent": (step.channel.bytes_sent if step.channel else 0) - sent}

    ways = WAYS if args.rank >= 0 else WAYS[:1]
    if args.skip_whole_batch:
        ways = tuple(way for way in ways if way != "whole_batch")
    for way in ways:
        train(way)  # compiles
    memory = {}
    rounds = []
    for _ in range(args.rounds):
        rounds.append({way: train(way) for way in ways})
    memory["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if step.channel:
        step.channel.close()
    return {"rank": args.rank, "rounds": rounds, **memory, "split": step.split,
            "block_seconds": None if times is None else {"forward": times.forward,
                                                         "forward_and_backward": times.backward,
                                                         "stages": times.stages(step.split)}}


def start(args: argparse.Namespace, rank: int, connection: socket.socket | None) -> subprocess.Popen:
    command = [sys.executable, __file__, "--rank", str(rank), "--size", args.size, "--micro_batches",
               str(args.micro_batches), "--rounds", str(args.rounds), "--split", args.split]
    command += ["--skip_whole_batch"] * args.skip_whole_batch
    inherited = ()
    if connection is not None:
        command += ["--connection", str(connection.fileno())]
        inherited = (connection.fileno(),)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=inherited,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(processes: list[subprocess.Popen]) -> list[dict[str, Any]]:
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"a rank ended with exit codes {[process.returncode for process in processes]}")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def summarise(ranks: list[dict[str, Any]], one_device: dict[str, Any], volumes: int) -> dict[str, Any]:
    """Return throughput, speed-ups, busy shares, traffic and memory of a run."""
    first = ranks[0]["rounds"]
    ways = list(first[0])
    seconds = {way: [entry[way]["seconds"] for entry in first] for way in ways}
    figures: dict[str, Any] = {
        f"volumes_per_second_{way}": volumes / statistics.median(values) for way, values in seconds.items()}
    figures["volumes_per_second_one_device"] = volumes / statistics.median(
        entry["micro_batches"]["seconds"] for entry in one_device["rounds"])
    for rank in ranks:
        number = rank["rank"]
        for way in ways:
            total = {key: sum(entry[way][key] for entry in rank["rounds"]) for key in rank["rounds"][0][way]}
            figures[f"busy_share_rank{number}_{way}"] = total["busy_seconds"] / total["seconds"]
        figures[f"mb_sent_a_volume_rank{number}"] = total["bytes_sent"] / len(first) / volumes / 1e6
        figures[f"peak_gib_rank{number}"] = rank["peak_gib"]
    figures["peak_gib_one_device"] = one_device["peak_gib"]
    figures["split"] = ranks[0]["split"]
    for way in ways[1:]:
        figures[f"speedup_over_{way}"] = statistics.median(
            slow / fast for slow, fast in zip(seconds[way], seconds["micro_batches"], strict=True))
    figures["speedup_over_one_device"] = (figures["volumes_per_second_micro_batches"]
                                          / figures["volumes_per_second_one_device"])
    figures["pipeline_speedup"] = min(figures[f"speedup_over_{way}"] for way in ways[1:])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="64x64x31", help="X and Y multiples of 8, Z 3 more than a multiple of 4")
    parser.add_argument("--micro_batches", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--split", default="auto", help="blocks of the first rank, or auto")
    parser.add_argument("--skip_whole_batch", action="store_true", help="leave that way out; it takes the most memory")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/pipeline.json")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--connection", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank is not None:
        print(json.dumps(run_rank(args)))
        return
    one_device = finish([start(args, -1, None)])[0]
    ends = socket.socketpair()
    processes = [start(args, rank, end) for rank, end in enumerate(ends)]
    for end in ends:
        end.close()  # or a rank would not notice that the other one ended
    ranks = finish(processes)
    figures = summarise(ranks, one_device, args.micro_batches)
    write_json(args.output, {"command": "python " + " ".join(["benchmarks/pipeline.py", *sys.argv[1:]]),
                             "environment": environment(), "one_device": one_device, "ranks": ranks,
                             "figures": figures})
    for key, value in figures.items():
        print(f"{key}={value:.3f}" if isinstance(value, float) else f"{key}={value}")


if __name__ == "__main__":
    main()
