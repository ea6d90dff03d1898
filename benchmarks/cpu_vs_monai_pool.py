"""Worker processes of cpu_vs_monai.py that compute in turn, and the alternated rounds over them.

Only one worker computes at a time; the others block in a read. What the idle ones burn all the same, and what the rest
of the machine burns during a step, is taken from /proc and kept beside each time.
"""

import json
import os
import selectors
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from src.machine import busy_seconds

TICK = os.sysconf("SC_CLK_TCK")
DROP_ABOVE = 1.1  # a variant of MONAI this much slower than the best of its precision leaves after the first round
PAUSE = 0.5  # seconds before each step: threads of the one before may still spin
WORKER = Path(__file__).with_name("cpu_vs_monai_worker.py")


@dataclass
class Entry:
    """What was seen of one contender on one size, batch and mode; seconds unless said otherwise."""

    mode: str
    size: str
    batch: int
    contender: str
    seconds: list[float] = field(default_factory=list)  # of each round's step; the first step of all is not in it
    cpu_seconds: list[float] = field(default_factory=list)  # of the worker, all threads
    other_cores: list[float] = field(default_factory=list)  # cores that other processes kept busy during the step
    first_step: float | None = None  # from the start of the process
    first_value: float | None = None
    last_value: float | None = None  # loss, or mean probability
    peak_rss_bytes: int | None = None
    idle_cores: float | None = None  # that the worker kept busy while it had nothing to do
    parameters: int | None = None
    profile: dict[str, float] | None = None
    note: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "median": self.median}


class WorkerFailed(Exception):
    """A worker ended, took longer than its limit, or answered with an error."""


class Worker:
    """A contender's process.

    Args:
        entry: names the contender, and takes what is measured.
        python: the interpreter of its environment.
        variables: environment variables on top of this process's own.
        log: takes what it prints.
    """

    def __init__(self, entry: Entry, python: Path, variables: Mapping[str, str], log: Path):
        self.entry = entry
        self.command = [str(python), str(WORKER), entry.contender, entry.mode, entry.size, str(entry.batch)]
        self.variables = variables
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.buffer = b""
        self.idle_seconds = self.idle_cpu = 0.0

    def start(self, limit: float) -> bool:
        """Start the process and take the first step; False when the contender cannot run here.

        Raises:
            WorkerFailed: see there; `limit` is for both together.
        """
        began = time.perf_counter()
        with self.log.open("ab") as stderr:
            self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
                                            cwd=self.log.parent, env={**os.environ, **self.variables})
        ready = self._read(limit)
        if "unsupported" in ready:
            self.entry.note = f"not run: {ready['unsupported']}"
            return False
        self.entry.parameters, self.entry.note = ready["parameters"], ready["remark"]
        first = self._ask("step", limit - (time.perf_counter() - began))
        self.entry.first_step = time.perf_counter() - began
        self.entry.first_value = self.entry.last_value = first["value"]
        self._rest()
        return True

    def step(self, limit: float) -> None:
        """Take one timed step.

        Raises:
            WorkerFailed: see there.
        """
        self._wake()
        busy, own, began = busy_seconds(), self._cpu_seconds(), time.perf_counter()
        result = self._ask("step", limit)
        elapsed = time.perf_counter() - began
        others = (busy_seconds() - busy) - (self._cpu_seconds() - own)
        self.entry.seconds.append(result["seconds"])
        self.entry.cpu_seconds.append(result["cpu_seconds"])
        self.entry.other_cores.append(round(max(others, 0.0) / elapsed, 3))
        self.entry.last_value = result["value"]
        self._rest()

    def finish(self, profile_limit: float) -> None:
        """Take memory, then one profiled step unless `profile_limit` is 0, and end the process."""
        self._wake()
        self.entry.idle_cores = round(self.idle_cpu / self.idle_seconds, 4) if self.idle_seconds > 1 else None
        try:
            self.entry.peak_rss_bytes = self._ask("memory", 60)["peak_rss_bytes"]
            if profile_limit:
                self.entry.profile = self._ask("profile", profile_limit)["profile"]
        finally:
            self.end()

    def end(self) -> None:
        """End the process, whatever it is at."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _ask(self, command: str, limit: float) -> dict[str, Any]:
        assert self.process is not None and self.process.stdin is not None
        try:
            self.process.stdin.write(command.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerFailed(f"has ended; see {self.log}") from error
        return self._read(limit)

    def _read(self, limit: float) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        deadline = time.perf_counter() + limit
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.buffer:
                if not selector.select(max(deadline - time.perf_counter(), 0)):
                    raise WorkerFailed(f"took longer than its limit of {limit:.0f} s")
                chunk = os.read(self.process.stdout.fileno(), 65536)
                if not chunk:
                    raise WorkerFailed(f"ended with exit code {self.process.wait()}; see {self.log}")
                self.buffer += chunk
        line, self.buffer = self.buffer.split(b"\n", 1)
        result: dict[str, Any] = json.loads(line)
        if "error" in result:
            raise WorkerFailed(f"{result['error']}; see {self.log}")
        return result

    def _rest(self) -> None:
        self.rested = time.perf_counter(), self._cpu_seconds()

    def _wake(self) -> None:
        since, cpu = self.rested
        self.idle_seconds += time.perf_counter() - since
        self.idle_cpu += self._cpu_seconds() - cpu

    def _cpu_seconds(self) -> float:
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK  # user and system time, all threads


def losers(entries: Iterable[Entry]) -> set[str]:
    """Return the contenders that need no further round.

    Those are stock MindSpore, which is there for its magnitude, and the variants of MONAI that `DROP_ABOVE` says of.
    """
    timed = [entry for entry in entries if entry.seconds]
    dropped = {entry.contender for entry in timed if entry.contender.endswith("stock")}
    for precision in ("fp32", "bf16"):
        rivals = {e.contender: min(e.seconds) for e in timed if e.contender.startswith(f"monai-{precision}")}
        dropped |= {name for name, seconds in rivals.items() if seconds > DROP_ABOVE * min(rivals.values())}
    return dropped


def run_rounds(workers: list[Worker], least: int, most: int, deadline: float, limit: float, profiled: bool,
               say: Callable[[str], None]) -> None:
    """Start the workers one after the other, let them compute in turn for `least` to `most` rounds, and end them.

    A round above `least` begins only if it would end before `deadline` (of time.perf_counter). A worker that fails is
    noted in its entry and leaves; the others go on. `limit` holds for each answer.
    """
    running: list[Worker] = []
    for worker in workers:
        if attempt(worker, lambda worker=worker: worker.start(limit), say):
            running.append(worker)
            say(f"  {worker.entry.contender}: first step after {worker.entry.first_step:.1f} s")
        else:
            worker.end()
    try:
        duration = 0.0
        for number in range(1, most + 1):
            began = time.perf_counter()
            if number > least and began + duration > deadline:
                break
            # Every other round goes the other way, so that a steady drift of the machine favours nobody.
            for worker in running[::1 if number % 2 else -1]:
                time.sleep(PAUSE)
                if not attempt(worker, lambda worker=worker: worker.step(limit), say):
                    worker.end()
            running = [worker for worker in running if worker.process is not None]
            say(f"  round {number}: " + ", ".join(f"{w.entry.contender} {w.entry.seconds[-1]:.3f}" for w in running))
            if number == 1:
                dropped = losers(worker.entry for worker in running)
                for worker in [worker for worker in running if worker.entry.contender in dropped]:
                    attempt(worker, lambda worker=worker: worker.finish(0), say)
                    running.remove(worker)
            duration = sum(worker.entry.seconds[-1] for worker in running)
        for worker in running:
            attempt(worker, lambda worker=worker: worker.finish(limit if profiled else 0), say)
    finally:
        for worker in workers:
            worker.end()


def attempt(worker: Worker, action: Callable[[], bool | None], say: Callable[[str], None]) -> bool:
    """Do something with a worker; a failure goes into its entry's note. Return whether it may go on."""
    try:
        if action() is not False:
            return True
        say(f"  {worker.entry.contender} {worker.entry.note}")
        return False
    except WorkerFailed as error:
        worker.entry.note = f"failed: {error}"
        say(f"  {worker.entry.contender} {worker.entry.note}")
        return False
