"""A rank's place among the others, as its launcher says it in the environment; ports and the scheduler they meet at.

Nothing here needs MindSpore.
"""

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from src.errors import UserError

JOB = "VNET_JOB"  # marks every process of a job, see src/launch.py
LOG_DIR = "VNET_LOG_DIR"  # where the launcher keeps the logs of ranks
JOIN_SECONDS = 120  # to wait for the other ranks; MindSpore's own variable MS_TOPO_TIMEOUT changes it

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def rank_of(environ: Mapping[str, str]) -> int | None:
    """Return the rank that msrun, mpirun or the launch script gave to this process; None when there is none."""
    if environ.get("MS_ROLE") == "MS_SCHED":
        return None
    rank = environ.get("RANK_ID") or environ.get("OMPI_COMM_WORLD_RANK")
    return int(rank) if rank and rank.isdigit() else None


def local_world_size(world_size: int, environ: Mapping[str, str]) -> int:
    """Return the number of ranks on this machine; all of them unless the launcher says otherwise."""
    if world_size == 1:
        return 1  # whatever another job has left in the environment
    return int(environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") or environ.get("LOCAL_WORLD_SIZE") or world_size)


def check_world_size(world_size: int, cases: int) -> None:
    """Refuse ranks that would have no case of their own; each rank finds the same before it joins the others.

    No cases at all are another problem, which the check of the data tells.

    Raises:
        UserError: there are more ranks than training cases.
    """
    if 0 < cases < world_size:
        raise UserError(f"{world_size} ranks for {cases} training case{'s' * (cases != 1)}: every rank needs one of "
                        f"its own; start {cases} ranks at most (DEVICE_NUM of the launch scripts), or add cases")


def end_with_parent(sig: int = signal.SIGKILL) -> None:
    """Let the kernel send `sig` to this process when its parent ends, however that ends (Linux)."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, sig, 0, 0, 0)
    if os.getppid() != parent:  # it ended in between
        os.kill(os.getpid(), sig)


def adopt_mpirun(environ: MutableMapping[str, str]) -> bool:
    """Say in MindSpore's variables what mpirun said in its own, as msrun would; whether mpirun started this process.

    MindSpore's own way under mpirun has no collectives on CPU ("communication library on device side"), so all devices
    take the one that msrun takes: a scheduler that rank 0 starts, and workers.

    Raises:
        UserError: the ranks are on several machines and nothing says where rank 0 is.
    """
    if "OMPI_COMM_WORLD_RANK" not in environ or "MS_ROLE" in environ:
        return False
    rank, size = environ["OMPI_COMM_WORLD_RANK"], environ["OMPI_COMM_WORLD_SIZE"]
    host = environ.get("MASTER_ADDR") or ("127.0.0.1" if environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == size else "")
    if not host:
        raise UserError("the ranks are on several machines: say where rank 0 is, with mpirun -x MASTER_ADDR=ADDRESS")
    # All ranks of a job have one namespace, so they agree on a port without a word.
    port = environ.get("MASTER_PORT") or str(10000 + zlib.crc32(environ.get("PMIX_NAMESPACE", "").encode()) % 19998)
    environ.update(MS_ROLE="MS_WORKER", MS_WORKER_NUM=size, MS_SCHED_HOST=address_of(host), MS_SCHED_PORT=port,
                   MS_NODE_ID=rank, RANK_ID=rank, RANK_SIZE=size)
    return True


def address_of(host: str) -> str:
    """Return the IPv4 address of a host, which is what MindSpore expects.

    Raises:
        UserError: there is no such host.
    """
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise UserError(f"MASTER_ADDR {host!r}: {error.strerror or error}; expected the address or name of the machine "
                        "that rank 0 runs on") from error


def start_scheduler(code: str, environ: Mapping[str, str], seconds: float = 20) -> None:
    """Start a process that runs the Python `code` as the scheduler of a worker with this environment.

    It ends when all ranks have left, at the latest `seconds` after this process. The launcher says where it logs.
    """
    kept = {name: value for name, value in environ.items()
            if not name.startswith(("OMPI_", "PMIX_", "PRTE_")) and name not in ("MS_NODE_ID", "RANK_ID")}
    root = str(Path(__file__).resolve().parent.parent)
    kept |= {"MS_ROLE": "MS_SCHED", "PYTHONPATH": os.pathsep.join(filter(None, (root, kept.get("PYTHONPATH"))))}
    log = Path(environ[LOG_DIR], "scheduler.log") if LOG_DIR in environ else Path(os.devnull)
    with log.open("wb") as output:
        # The others leave after rank 0 at times, and their scheduler has to be there still: hence a guard between them.
        call = f"guard({code!r}, {os.getpid()}, {seconds})"
        subprocess.Popen([sys.executable, "-c", f"from src.ranks import guard; {call}"], env=kept,
                         stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)


def guard(code: str, parent: int, seconds: float) -> None:
    """Run Python `code` in a process of its own, which has `seconds` to end once this one's `parent` has ended."""
    scheduler = subprocess.Popen([sys.executable, "-c", code])
    left = seconds
    while scheduler.poll() is None and left > 0:
        time.sleep(0.2)
        if os.getppid() != parent:
            left -= 0.2
    scheduler.kill()


def free_port() -> int:
    """Return a port that is free together with the next one."""
    while True:
        port = random.randrange(10000, 30000)
        try:
            for number in (port, port + 1):
                socket.create_server(("127.0.0.1", number)).close()
            return port
        except OSError:
            continue


def check_port(host: str, port: int) -> None:
    """Refuse a port that is taken.

    Raises:
        UserError: this process cannot listen at `host`:`port`.
    """
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise cannot_listen(host, port, error) from error


def join_seconds(environ: Mapping[str, str]) -> float:
    """Return how long ranks wait for each other at the start.

    Raises:
        UserError: MS_TOPO_TIMEOUT is no number of seconds.
    """
    text = environ.get("MS_TOPO_TIMEOUT") or str(JOIN_SECONDS)
    if not text.isdigit() or int(text) == 0:
        raise UserError(f"MS_TOPO_TIMEOUT is {text!r}, expected a whole number of seconds such as {JOIN_SECONDS}")
    return float(text)


def cannot_listen(host: str, port: int, error: OSError) -> UserError:
    """Return what to tell the user when rank 0 cannot listen at `host`:`port`."""
    return UserError(f"rank 0 cannot listen at {host}:{port} ({os.strerror(error.errno or 0)}); set MASTER_PORT "
                     "to a port that is free together with the next one, and MASTER_ADDR to the address of rank 0")
