"""What launchers say in the environment, the scheduler that they lack, and ports."""

import ast
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src import ranks
from src.errors import UserError

ROOT = Path(__file__).parent.parent
MPIRUN = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
          "PMIX_NAMESPACE": "2761228289"}


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize(("environ", "rank"), [
    ({}, None),
    ({"MS_ROLE": "MS_WORKER", "RANK_ID": "3"}, 3),  # msrun
    ({"MS_ROLE": "MS_SCHED", "RANK_ID": "0"}, None),
    ({"MS_ROLE": "MS_WORKER", "RANK_ID": "None"}, None),  # msrun --node_rank=-1: MindSpore numbers the ranks
    ({"OMPI_COMM_WORLD_RANK": "2"}, 2),
    ({"RANK_TABLE_FILE": "hccl.json", "RANK_ID": "0"}, 0)])
def test_rank_by_launcher(environ, rank):
    assert ranks.rank_of(environ) == rank


def test_ranks_on_this_machine():
    assert ranks.local_world_size(8, {}) == 8
    assert ranks.local_world_size(8, {"LOCAL_WORLD_SIZE": "4"}) == 4
    assert ranks.local_world_size(8, {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "LOCAL_WORLD_SIZE": "4"}) == 2
    assert ranks.local_world_size(1, {"LOCAL_WORLD_SIZE": "4"}) == 1  # left by another job


def test_how_long_ranks_wait_for_each_other():
    assert ranks.join_seconds({}) == 120
    assert ranks.join_seconds({"MS_TOPO_TIMEOUT": "30"}) == 30
    for wrong in ("abc", "0", "-1", "1.5"):
        with pytest.raises(UserError, match=f"MS_TOPO_TIMEOUT is '{wrong}', expected a whole number of seconds"):
            ranks.join_seconds({"MS_TOPO_TIMEOUT": wrong})


def test_mpirun_is_told_to_mindspore_as_msrun_would():
    environ = dict(MPIRUN)
    assert ranks.adopt_mpirun(environ)
    expected = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "2", "MS_SCHED_HOST": "127.0.0.1", "MS_NODE_ID": "1",
                "RANK_ID": "1", "RANK_SIZE": "2"}
    assert {name: environ[name] for name in expected} == expected
    other = {**MPIRUN, "OMPI_COMM_WORLD_RANK": "0"}
    ranks.adopt_mpirun(other)
    assert other["MS_SCHED_PORT"] == environ["MS_SCHED_PORT"]  # found by each rank for itself
    assert 10000 <= int(environ["MS_SCHED_PORT"]) < 30000
    assert not ranks.adopt_mpirun({})
    assert not ranks.adopt_mpirun({**MPIRUN, "MS_ROLE": "MS_WORKER"})


def test_mpirun_on_several_machines_needs_the_address_of_rank_0():
    environ = {**MPIRUN, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}
    with pytest.raises(UserError, match="mpirun -x MASTER_ADDR=ADDRESS"):
        ranks.adopt_mpirun(environ)
    environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "12345"}
    ranks.adopt_mpirun(environ)
    assert (environ["MS_SCHED_HOST"], environ["MS_SCHED_PORT"]) == ("127.0.0.1", "12345")
    with pytest.raises(UserError, match="MASTER_ADDR 'no.such.host.invalid'"):
        ranks.address_of("no.such.host.invalid")


def test_the_scheduler_is_no_rank_of_mpirun_and_ends_after_its_rank(tmp_path):
    """Rank 0 ends at once; the scheduler has a second more, which it would exceed."""
    environ = {**os.environ, **MPIRUN, ranks.LOG_DIR: str(tmp_path)}
    ranks.adopt_mpirun(environ)
    scheduler = ("import os, time; from src.ranks import end_with_parent; end_with_parent(); "
                 "print({n: v for n, v in os.environ.items() if n.startswith(('MS_', 'OMPI_', 'PMIX_', 'RANK_'))}, "
                 "os.getpid(), flush=True); time.sleep(60)")
    rank_0 = ("import os, time; from src import ranks; "
              f"ranks.start_scheduler({scheduler!r}, os.environ, 1); time.sleep(1)")
    subprocess.run([sys.executable, "-c", rank_0], cwd=ROOT, env=environ, check=True)
    words = (tmp_path / "scheduler.log").read_text()
    found, pid = ast.literal_eval(words[:words.index("}") + 1]), int(words.split()[-1])
    assert found == {"MS_ROLE": "MS_SCHED", "MS_WORKER_NUM": "2", "MS_SCHED_HOST": "127.0.0.1",
                     "MS_SCHED_PORT": environ["MS_SCHED_PORT"], "RANK_SIZE": "2"}
    assert running(pid)
    wait_for_end(pid, 30)


def test_more_ranks_than_cases():
    ranks.check_world_size(4, 4)
    ranks.check_world_size(2, 0)  # an empty split, which the check of the data tells
    with pytest.raises(UserError, match=r"^5 ranks for 4 training cases: .* start 4 ranks at most"):
        ranks.check_world_size(5, 4)
    with pytest.raises(UserError, match="^2 ranks for 1 training case: "):
        ranks.check_world_size(2, 1)


def test_a_taken_port(port):
    with (socket.create_server(("127.0.0.1", port)),
          pytest.raises(UserError, match=rf"cannot listen at 127.0.0.1:{port} \(Address already in use\); set")):
        ranks.check_port("127.0.0.1", port)
    ranks.check_port("127.0.0.1", port)


def test_a_process_ends_with_its_parent():
    """Even when the parent is killed, and can do nothing about it."""
    child = "from src.ranks import end_with_parent; end_with_parent(); print('ready', flush=True); input()"
    parent = ("import subprocess, sys; "
              f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE); "
              "print(p.pid, flush=True); p.wait()")
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    words = {process.stdout.readline().strip(), process.stdout.readline().strip()}
    pid = int((words - {"ready"}).pop())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for_end(pid, 5)


def wait_for_end(pid: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while running(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
