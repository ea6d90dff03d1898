"""Starting ranks and ending them, with stand-ins for msrun and mpirun that fail as those do."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from src import launch
from src.launch import end_processes, processes_of
from src.ranks import JOB
from tests.processes import living

ROOT = Path(__file__).parent.parent

# Rank 1 does what FAIL says once rank 0 is there; rank 0 and the scheduler would stay for a minute.
RANK = """
import os, signal, sys, time
rank = os.environ.get("RANK_ID") or os.environ.get("OMPI_COMM_WORLD_RANK")
if os.environ.get("FAIL") == "nothing":
    print("rank", rank, "is done", flush=True)
    sys.exit(0)
print("rank", rank, "of", os.environ.get("DEVICE_ID"), "trains", flush=True)
if rank == "1":
    time.sleep(1)
    if os.environ["FAIL"] == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ["FAIL"] == "lost":
        print("error: rank 3 at 192.0.2.7 is gone (timed out), so rank 1 ends too; look at its log", flush=True)
        sys.exit(2)
    print("error: Case07: no such file", flush=True)
    sys.exit(2)
time.sleep(60)
"""

# As msrun 2.8: workers in sessions of their own, logs by rank; after a failure it waits for the scheduler.
MSRUN = """
import os, subprocess, sys, time
given = dict(item[2:].split("=") for item in sys.argv[1:] if item.startswith("--") and "=" in item)
def start(role, rank, log):
    with open(os.path.join(given["log_dir"], log), "w") as output:
        return subprocess.Popen([sys.executable, "rank.py"], stdout=output, stderr=subprocess.STDOUT,
                                start_new_session=True, env={**os.environ, "MS_ROLE": role, "RANK_ID": rank})
scheduler = subprocess.Popen(["sleep", "60"], env={**os.environ, "MS_ROLE": "MS_SCHED", "RANK_ID": "0"})
workers = [start("MS_WORKER", str(rank), f"worker_{rank}.log") for rank in range(int(given["local_worker_num"]))]
while any(worker.poll() is None for worker in workers):
    for worker in workers:
        if worker.poll():
            print(f"[ERROR] ME(1): Worker process {worker.pid} exit with exception. Error code: {worker.poll()}.",
                  file=sys.stderr, flush=True)
            scheduler.wait()
    time.sleep(0.2)
scheduler.kill()
"""

# As mpirun of Open MPI 4.1: ends the ranks, then says why; it does not know that rank 0 has a child.
MPIRUN = """
import os, subprocess, sys, threading, time
def start(rank):
    return subprocess.Popen([sys.executable, "rank.py"], stdout=subprocess.PIPE, text=True,
                            env={**os.environ, "OMPI_COMM_WORLD_RANK": str(rank)})
def copy(rank, worker):
    for line in worker.stdout:
        half = len(line) // 2  # Open MPI tags what was written at once
        tag = f"[1,{rank}]<stdout>:" + " " * (os.environ["FAIL"] == "lost")  # as Open MPI 5 does
        print(f"{tag}{line}" if tag[-1] == " " else f"{tag}{line[:half]}{tag}{line[half:]}", end="", flush=True)
subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
workers = [start(rank) for rank in range(2)]
for rank, worker in enumerate(workers):
    threading.Thread(target=copy, args=(rank, worker), daemon=True).start()
code = workers[1].wait()
time.sleep(0.3)
if code == 0:
    sys.exit(workers[0].wait())
workers[0].kill()
if os.environ["FAIL"] == "lost":  # as Open MPI 5 names it
    print(f"prterun detected that one or more processes exited with non-zero status\\n\\n"
          f"   Process name: [prterun-a.host-{os.getpid()}@1,1]\\n   Exit code:    {code}")
elif code < 0:
    print(f"mpirun noticed that process rank 1 with PID {workers[1].pid} on node h exited on signal {-code} (Killed).")
else:
    print("mpirun detected that one or more processes exited with non-zero status\\n\\n"
          f"  Process name: [[57051,1],1]\\n  Exit code:    {code}")
sys.exit(code if code > 0 else 128 - code)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, text in {"rank.py": RANK, "msrun": f"#!{sys.executable} -SE{MSRUN}",
                       "mpirun": f"#!{sys.executable} -SE{MPIRUN}"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


STARTERS = {"msrun": ["msrun", "--worker_num=2", "--local_worker_num=2", "python3", "rank.py"],
            "mpirun": ["mpirun", "-n", "2", "python3", "rank.py"],
            "devices": ["--devices", "4,6", sys.executable, "rank.py"]}
LOGS = {"msrun": "logs/worker_1.log", "mpirun": "logs", "devices": "logs/rank_1.log"}


def start(place: Path, starter: str, fail: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "scripts/run_ranks.py"), "--log_dir", "logs", *STARTERS[starter]]
    environ = {name: value for name, value in os.environ.items() if name not in ("RANK_ID", "MS_ROLE", JOB)}
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={
        **environ, "FAIL": fail, "PATH": f"{place}:{os.environ['PATH']}", "WHERE": str(place)})


def run(place: Path, starter: str, fail: str) -> tuple[int, str]:
    began = time.monotonic()
    process = start(place, starter, fail)
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - began < 15  # seconds, where the ranks left alone would stay a minute
    assert left_over(place) == []
    return process.returncode, output


def left_over(place: Path) -> list[int]:
    """Processes that were started in this test, by a variable that they all inherit."""
    return [pid for pid, environ in living() if environ.get("WHERE") == str(place)]


@pytest.mark.parametrize("starter", STARTERS)
def test_a_killed_rank_ends_the_job_and_is_named(place, starter):
    code, output = run(place, starter, "signal")
    assert code == 128 + signal.SIGKILL
    assert re.search(r"^rank 0 of .* trains$", output, re.MULTILINE)
    assert "rank 1 of" not in output
    assert re.search(r"^error: rank 1 was killed by SIGKILL \(by hand, or .*; "
                     rf"its log: {LOGS[starter]}; --resume RUN_DIR continues", output, re.MULTILINE)


@pytest.mark.parametrize("starter", STARTERS)
def test_the_error_of_a_failing_rank_is_shown(place, starter):
    code, output = run(place, starter, "error")
    assert code == 2
    assert re.search(r"^the last lines of rank 1:\n  rank 1 of .* trains\n  error: Case07: no such file$", output,
                     re.MULTILINE)
    assert re.search(r"^error: rank 1 ended with exit code 2, so all ranks are ended", output, re.MULTILINE)


@pytest.mark.parametrize("starter", STARTERS)
def test_a_rank_lost_on_another_machine_is_named(place, starter):
    """Rank 1 has ended by itself since rank 3 is gone; with mpirun in the words of Open MPI 5."""
    code, output = run(place, starter, "lost")
    assert code == 2
    assert re.search(r"^rank 0 of .* trains$", output, re.MULTILINE)
    assert re.search(r"^error: rank 3 at 192\.0\.2\.7 is gone \(timed out\), so all ranks here are ended, rank 1 by "
                     rf"itself; its log: {LOGS[starter]}; --resume RUN_DIR", output, re.MULTILINE)


@pytest.mark.parametrize("starter", STARTERS)
def test_a_job_that_succeeds(place, starter):
    code, output = run(place, starter, "nothing")
    assert code == 0
    assert output == "rank 0 is done\n"


@pytest.mark.parametrize("starter", STARTERS)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_ranks(place, starter, signum):
    process = start(place, starter, "error" if signum == signal.SIGINT else "signal")
    assert process.stdout
    while "rank 0" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signum)
    output, _ = process.communicate(timeout=15)
    assert process.returncode == 128 + signum
    assert f"error: {signum.name}: ending all ranks" in output
    assert left_over(place) == []


def test_ranks_end_when_their_starter_is_killed(place):
    """SIGKILL for run_ranks.py itself: the kernel ends what it started."""
    process = start(place, "devices", "signal")
    assert process.stdout
    process.stdout.readline()
    process.kill()
    process.wait()
    end = time.monotonic() + 5
    while left_over(place):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_starter_that_says_nothing(place):
    (place / "msrun").write_text("#!/bin/sh\necho no ranks here\nexit 3\n")
    code, output = run(place, "msrun", "nothing")
    assert code == 3
    assert "no ranks here\nerror: msrun ended with exit code 3 without saying which rank failed" in output


def test_processes_are_found_by_the_mark_of_their_job(place):
    """Their parent has ended; the one that ignores SIGTERM is killed."""
    environ = {**os.environ, JOB: "a mark", "NAME": "deaf"}
    subprocess.run(["/bin/sh", "-c", "trap '' TERM; sleep 60 & sleep 60 &"], env=environ, check=True,
                   stdout=subprocess.DEVNULL)
    found = processes_of("a mark")
    assert len(found) == 2
    assert {variables["NAME"] for variables in found.values()} == {"deaf"}
    assert processes_of("a") == {}
    began = time.monotonic()
    end_processes("a mark", grace=0.5)
    assert 0.4 < time.monotonic() - began < 5
    assert processes_of("a mark") == {}


def test_a_process_that_cannot_be_killed_is_named_and_left(monkeypatch, caplog):
    monkeypatch.setattr(launch, "processes_of", lambda job: {12: {}, 34: {}})
    monkeypatch.setattr(launch, "_signal", lambda pid, signum: None)
    monkeypatch.setattr(launch, "KILL_SECONDS", 0.3)
    began = time.monotonic()
    end_processes("a mark", grace=0.2)
    assert 0.4 < time.monotonic() - began < 5
    assert "processes 12, 34: still there 0 s after SIGKILL" in caplog.text


def test_a_rank_whose_number_is_not_known(place, caplog, capsys):
    job = launch._Msrun(["msrun", "--local_worker_num=2"], place / "logs", [])
    assert job.report(-1, -signal.SIGTERM) == 128 + signal.SIGTERM
    assert f"rank ? was killed by SIGTERM (not by this launcher: by hand, or by MindSpore, which missed another rank)" \
           f", so all ranks are ended; its log: {place / 'logs'};" in caplog.text


def test_the_port_of_the_scheduler_and_the_next_have_to_be_free(place):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for asked in (port, port - 1):
            command = [sys.executable, str(ROOT / "scripts/run_ranks.py"), "--log_dir", "logs", "--listen", "localhost",
                       "msrun"]
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False,
                                  env={**os.environ, "MASTER_PORT": str(asked)})
            assert done.returncode == 2
            assert f"error: rank 0 cannot listen at 127.0.0.1:{port} (Address already in use); set" in done.stderr
