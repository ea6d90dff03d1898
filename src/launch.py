"""Start the ranks of this machine, through msrun, mpirun or one process a device, and end all of them when one fails.

What the starters lack: msrun sees a dead rank within a second, but then waits half a minute for its scheduler, and
leaves everything running when it is told to end; mpirun knows nothing of the scheduler that rank 0 starts. So every
process of a job carries a mark in its environment, by which all are found, whoever their parent is by then.
"""

import logging
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from src.control import LOST_RANK
from src.errors import EXIT_USER_ERROR
from src.ranks import JOB, LOG_DIR, end_with_parent, rank_of

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL
KILL_SECONDS = 30.0  # that processes may take to end after SIGKILL
LAST_LINES = 15

# How msrun 2.8 and Open MPI 4 and 5 say which rank failed, and how. Where they are silent, their exit code counts.
# (Open MPI 5: by its source, not run here.)
_MSRUN_FAILURE = re.compile(r"Worker process (\d+) exit with exception\. Error code: (-?\d+)")
_MSRUN_START = re.compile(r"Start (scheduler|worker) process")
_MPIRUN_SIGNAL = re.compile(r"process rank (\d+) with PID .* exited on\s+signal (\d+)")
_MPIRUN_NAME = re.compile(r"Process name: \[.*,(\d+)\]")
_MPIRUN_CODE = re.compile(r"Exit code:\s+(\d+)")
_MPIRUN_TAG = re.compile(r"\[\d+,(\d+)\]<std(?:out|err)>:")


class Stopped(Exception):
    """A signal asked for the end of the job."""

    def __init__(self, signum: int):
        self.signum = signum
        super().__init__(signal.Signals(signum).name)


def run_ranks(command: Sequence[str], log_dir: Path, devices: Sequence[str] = ()) -> int:
    """Run a job to its end and return its exit code: 0, or that of the rank that failed first.

    Args:
        command: msrun or mpirun with its arguments, or with `devices` the program of one rank.
        log_dir: folder for one log a rank; what rank 0 says also goes to stdout.
        devices: a process a device, in rank order, with RANK_ID and DEVICE_ID set.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    starter = Path(command[0]).name
    kind = _Devices if devices else {"msrun": _Msrun, "mpirun": _Mpirun}.get(starter, _Starter)
    job = kind(list(command), log_dir, list(devices))
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) != signal.SIG_IGN:  # as under nohup
            signal.signal(signum, _stop)
    try:
        return job.run()
    except Stopped as stopped:
        logger.error("%s: ending all ranks; files written so far are whole, --resume RUN_DIR continues", stopped)
        return 128 + stopped.signum
    finally:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        job.end()


def processes_of(job: str) -> dict[int, dict[str, str]]:
    """Return the environment of every living process of a job, by process id."""
    mark = f"{JOB}={job}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")  # empty for a zombie
        except OSError:
            continue  # ended, or another user's
        if mark in variables:
            pairs = (os.fsdecode(variable).partition("=") for variable in variables if variable)
            found[int(entry.name)] = {name: value for name, _, value in pairs}
    return found


def end_processes(job: str, grace: float = GRACE_SECONDS) -> None:
    """End every process of a job: by SIGTERM, and by SIGKILL after `grace` seconds.

    One that does not end then, such as in a call to a file server that is gone, is named and left.
    """
    deadline = time.monotonic() + grace
    asked: set[int] = set()
    while running := processes_of(job):
        late = time.monotonic() > deadline
        if time.monotonic() > deadline + KILL_SECONDS:
            logger.error("process%s %s: still there %.0f s after SIGKILL, waiting for a disk or a device; look at them "
                         "with ps", "es" * (len(running) > 1), ", ".join(map(str, running)), KILL_SECONDS)
            return
        for pid in running:
            if late or pid not in asked:
                _signal(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked |= set(running)
        time.sleep(POLL_SECONDS / 2)


class _Starter:
    """A job whose ranks are started by `command`; also how they report is known for msrun and mpirun."""

    def __init__(self, command: list[str], log_dir: Path, devices: list[str]):
        self.command, self.log_dir, self.devices = command, log_dir, devices
        self.mark = f"{os.getpid()}-{time.time_ns()}"
        self.failure: tuple[int, int] | None = None  # rank, and its exit code or minus its signal
        self.recent: defaultdict[int, deque[str]] = defaultdict(lambda: deque(maxlen=LAST_LINES))

    def run(self) -> int:
        process = self.start(self.command)
        for line in self.lines(process):
            self.look()
            if line is not None:
                self.hear(line)
            if self.failure is not None:
                break
        self.look()
        if self.failure is not None:
            return self.report(*self.failure)
        if code := process.wait():
            logger.error("%s ended with exit code %d without saying which rank failed; the logs of the ranks are in "
                         "%s", self.command[0], code, self.log_dir)
        return code if code >= 0 else 128 - code

    def start(self, command: list[str], **variables: str) -> subprocess.Popen:
        # A session of its own keeps Ctrl-C from everyone but us; the mark and the parent's death find them all.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=end_with_parent,
            env={**os.environ, JOB: self.mark, LOG_DIR: str(self.log_dir.absolute()), **variables})

    def lines(self, process: subprocess.Popen) -> Iterator[str | None]:
        """Yield what the process says line by line, and None while it says nothing, until it has ended."""
        said: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(target=_read, args=(process.stdout, said), daemon=True)
        reader.start()
        while True:
            try:
                yield said.get(timeout=POLL_SECONDS)
            except queue.Empty:
                # Not the end of the pipe alone: a process that it left behind may hold it.
                if process.poll() is not None or not reader.is_alive():
                    return
                yield None

    def look(self) -> None:
        """Called every `POLL_SECONDS` at least."""

    def hear(self, line: str) -> None:
        _print(line)

    def log_of(self, rank: int) -> Path:
        return self.log_dir

    def last_lines(self, rank: int) -> list[str]:
        return list(self.recent[rank])

    def report(self, rank: int, status: int) -> int:
        """Say which rank failed and how, and return the job's exit code.

        One that ended because a rank of another machine is gone names that one.
        """
        log = self.log_of(rank) if rank >= 0 else self.log_dir
        gone = next((found for line in reversed(self.last_lines(rank)) if (found := LOST_RANK.search(line))), None)
        if status == EXIT_USER_ERROR and gone:
            logger.error("%s, so all ranks here are ended, rank %d by itself; its log: %s; --resume RUN_DIR continues "
                         "from the last checkpoint", gone[0], rank, log)
            return status
        if status > 0:
            how = f"ended with exit code {status}"
            if rank and (last := self.last_lines(rank)):  # rank 0's were shown
                _print("\n  ".join([f"the last lines of rank {rank}:", *last]))
        else:
            how = f"was killed by {_signal_name(-status)}"
            if -status == signal.SIGKILL:
                how += " (by hand, or by the kernel for want of memory: see dmesg)"
            elif -status == signal.SIGTERM:
                how += " (not by this launcher: by hand, or by MindSpore, which missed another rank)"
        logger.error("rank %s %s, so all ranks are ended; its log: %s%s", rank if rank >= 0 else "?", how,
                     log, "" if status > 0 else "; --resume RUN_DIR continues from the last checkpoint")
        return status if status > 0 else 128 - status

    def end(self) -> None:
        end_processes(self.mark)


class _Msrun(_Starter):
    """msrun keeps a log a rank; that of the first rank here is passed on."""

    def __init__(self, command: list[str], log_dir: Path, devices: list[str]):
        super().__init__(command, log_dir, devices)
        given = dict(item.split("=", 1) for item in command if item.startswith("--") and "=" in item)
        self.expected = int(given.get("--local_worker_num", 8))
        self.first = max(0, int(given.get("--node_rank", 0))) * self.expected
        self.rank_by_pid: dict[int, int] = {}
        self.shown = self.log_of(self.first)
        self.shown.unlink(missing_ok=True)  # an earlier job's
        self.position = 0
        # -2 is no rank: msrun is to pass on nothing, since its `tail` processes outlive it.
        self.command = [command[0], "--tail_worker_log=-2", f"--log_dir={log_dir}", *command[1:]]

    def log_of(self, rank: int) -> Path:
        return self.log_dir / f"worker_{rank}.log"

    def last_lines(self, rank: int) -> list[str]:
        try:
            return self.log_of(rank).read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        except OSError:
            return []

    def look(self) -> None:
        if len(self.rank_by_pid) < self.expected:
            for pid, environ in processes_of(self.mark).items():
                if environ.get("MS_ROLE") == "MS_WORKER" and (rank := rank_of(environ)) is not None:
                    self.rank_by_pid[pid] = rank
        if self.shown.exists():
            with self.shown.open("rb") as log:
                log.seek(self.position)
                sys.stdout.buffer.write(text := log.read())
            sys.stdout.flush()
            self.position += len(text)

    def hear(self, line: str) -> None:
        if failed := _MSRUN_FAILURE.search(line):
            self.look()
            self.failure = (self.rank_by_pid.get(int(failed[1]), -1), int(failed[2]))
        elif not _MSRUN_START.match(line):  # the same long command once a process
            super().hear(line)


class _Mpirun(_Starter):
    """mpirun passes on what all ranks say, tagged with their number; rank 0's lines are shown."""

    def __init__(self, command: list[str], log_dir: Path, devices: list[str]):
        super().__init__(command, log_dir, devices)
        self.command = [command[0], "--tag-output", "--output-filename", str(log_dir), *command[1:]]
        self.named = -1
        self.begun: defaultdict[int, str] = defaultdict(str)

    def log_of(self, rank: int) -> Path:
        folder = self.log_dir / "1" / f"rank.{rank}"  # with more digits where there are ten ranks
        return folder if folder.is_dir() else self.log_dir

    def hear(self, line: str) -> None:
        # Every piece that a rank wrote has a tag, so a line may have several, of several ranks; it ends the last one's.
        _, *pieces = _MPIRUN_TAG.split(line)
        if pieces:
            for rank, text in zip(map(int, pieces[::2]), pieces[1::2], strict=True):
                self.begun[rank] += text if self.begun[rank] else text.removeprefix(" ")  # of Open MPI 5's tag
            self.recent[rank].append(self.begun.pop(rank))
            if rank == 0:
                _print(self.recent[rank][-1])
        elif killed := _MPIRUN_SIGNAL.search(line):
            self.failure = (int(killed[1]), -int(killed[2]))
        elif named := _MPIRUN_NAME.search(line):
            self.named = int(named[1])
        elif self.named >= 0 and (code := _MPIRUN_CODE.search(line)):
            self.failure = (self.named, int(code[1]))
        else:
            _print(line)


class _Devices(_Starter):
    """One process a device, as an HCCL rank table wants it, and a log for each; rank 0's is passed on."""

    def run(self) -> int:
        running = {rank: self.start([*self.command, "--device_id", device], RANK_ID=str(rank), DEVICE_ID=device)
                   for rank, device in enumerate(self.devices)}
        copying = {rank: threading.Thread(target=self.copy, args=(rank, process.stdout), daemon=True)
                   for rank, process in running.items()}
        for thread in copying.values():
            thread.start()
        while running:
            for rank, process in list(running.items()):
                if (code := process.poll()) is not None:
                    copying[rank].join(1)
                    del running[rank]
                    if code:
                        return self.report(rank, code)
            time.sleep(POLL_SECONDS)
        return 0

    def copy(self, rank: int, pipe: BinaryIO) -> None:
        with self.log_of(rank).open("w", encoding="utf-8") as log:
            for line in _decoded(pipe):
                self.recent[rank].append(line)
                print(line, file=log, flush=True)
                if rank == 0:
                    _print(line)

    def log_of(self, rank: int) -> Path:
        return self.log_dir / f"rank_{rank}.log"


def _read(pipe: BinaryIO, said: queue.Queue) -> None:
    for line in _decoded(pipe):
        said.put(line)


def _decoded(pipe: BinaryIO) -> Iterator[str]:
    return (line.decode(errors="replace").rstrip("\n") for line in pipe)


def _stop(signum: int, frame: object) -> None:
    raise Stopped(signum)


def _signal(pid: int, signum: int) -> None:
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return  # it has ended meanwhile


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()

