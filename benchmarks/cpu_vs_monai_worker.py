"""One contender of cpu_vs_monai.py or unet2d.py in a process of its own, that computes one step when it is told to.

    python benchmarks/cpu_vs_monai_worker.py CONTENDER train|infer SIZE BATCH      # started by cpu_vs_monai_pool.py

Commands come as lines on stdin: `step`, `profile`, `memory`. Each is answered by one line of JSON on what was stdout at
start; whatever libraries print goes to stderr. Between commands the process blocks in a read. It runs in the project's
environment and in MONAI's, so it imports nothing but the standard library before it knows the contender.
"""

import ctypes
import json
import math
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Protocol

PR_SET_PDEATHSIG = 1


class Unsupported(Exception):
    """This contender cannot run here, and the table says why; not an error."""


class Contender(Protocol):
    """What `cpu_vs_monai_ours` and `cpu_vs_monai_torch` build."""

    parameters: int
    remark: str

    def step(self) -> float:
        """Run one step to its end and return its loss, or for inference the mean probability."""
        ...

    def profile(self) -> dict[str, float] | None:
        """Run one step and return its seconds: `convolution`, `pointwise`, `optimizer` and `total`; None: cannot tell.
        """
        ...


def build(name: str, mode: str, size: tuple[int, ...], batch: int) -> Contender:
    """Return the contender `name`, its network and its input in memory.

    Raises:
        Unsupported: it cannot run here.
    """
    if name.startswith("latency"):
        from latency_ours import LatencyContender
        return LatencyContender(name)
    if name.startswith("unet2d-torch"):
        from unet2d_torch import TorchUNet
        return TorchUNet(name.split("-")[2:], mode == "train", size, batch)
    if name.startswith("unet2d"):
        from unet2d_ours import OurUNet
        return OurUNet(name, mode == "train", size, batch)
    if name.startswith("monai"):
        from cpu_vs_monai_torch import MonaiContender
        return MonaiContender(name.split("-")[1:], mode == "train", size, batch)
    from cpu_vs_monai_ours import OurContender
    return OurContender(name, mode == "train", size, batch)


def answer(command: str, contender: Contender) -> dict[str, Any]:
    """Carry out one command.

    Raises:
        ValueError: the command is unknown, or the step's result is no finite number.
    """
    if command == "memory":
        return {"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if command == "profile":
        return {"profile": contender.profile()}
    if command != "step":
        raise ValueError(f"unknown command {command!r}")
    began, cpu_began = time.perf_counter(), time.process_time()
    value = contender.step()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    if not math.isfinite(value):
        raise ValueError(f"the step's result is {value}: time of such a step means nothing")
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "value": value}


def main() -> None:
    # With the parent gone there is nobody to read an answer, and nobody else to end this process.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=replies, flush=True)

    name, mode, size, batch = sys.argv[1:]
    try:
        contender = build(name, mode, tuple(int(edge) for edge in size.split("x")), int(batch))
        reply({"parameters": contender.parameters, "remark": contender.remark})
        for line in sys.stdin:
            reply(answer(line.strip(), contender))
    except Unsupported as reason:
        reply({"unsupported": str(reason)})
    except Exception as error:
        traceback.print_exc()
        words = [line for line in str(error).splitlines() if any(letter.isalnum() for letter in line)]
        reply({"error": f"{type(error).__name__}: {''.join(words[:1])[:200]}"})
    replies.flush()
    os._exit(0)  # without the libraries' own endings, which may wait for their threads


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    # The contenders' modules import `Unsupported` from here: one module, not a second copy under another name.
    sys.modules["cpu_vs_monai_worker"] = sys.modules["__main__"]
    main()
