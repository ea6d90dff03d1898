"""Launchers with real ranks on CPU: a killed rank, resuming, and two nodes with a wire and a folder between them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from src.checkpoint import list_checkpoints
from src.ranks import free_port
from tests.processes import living
from tests.scripts.conftest import BASH, REPO

SAMPLE = REPO / "data" / "sample"
RECIPE = {"base_channels": 2, "VolSize": [16, 16, 16], "dstRes": [3, 3, 3], "batch_size": 2, "warmup_step": 2,
          "val_every": 0}
EPOCHS = 2


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    (tmp_path / "train.csv").write_text("".join(f"Case{number:02d}.mhd\n" for number in range(4)))
    (tmp_path / "val.csv").write_text("Case24.mhd\n")
    # A repository whose train.py trains a small network: compiling the whole one takes longer than all else here.
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "scripts").symlink_to(REPO / "scripts")
    (tmp_path / "repository" / "train.py").symlink_to(REPO / "tests" / "training" / "small_train.py")
    yield tmp_path
    for pid, _ in processes(tmp_path):  # where a test has failed
        os.kill(pid, signal.SIGKILL)


def launch(place: Path, script: str, *arguments: object, ranks: int = 2, prefix: tuple[str, ...] = (),
           **variables: str) -> subprocess.Popen:
    """Start a launcher in the foreground, from `place` or with a NODE_RANK from a folder in it."""
    split = [str(SAMPLE), str(place / "train.csv")]
    folder = place / f"node{variables['NODE_RANK']}" if "NODE_RANK" in variables else place
    folder.mkdir(exist_ok=True)
    environ = {name: value for name, value in os.environ.items() if name not in ("MASTER_PORT", "MASTER_ADDR")}
    environ |= {"FOREGROUND": "1", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "WHERE": str(place), **variables}
    first = {"train_distribute_cpu.sh": [str(ranks)], "train_distribute_gpu.sh": ["2", "0,1"]}[script]
    return subprocess.Popen([*prefix, BASH, str(place / "repository" / "scripts" / script), *first, *split,
                             *map(str, arguments)], cwd=folder, env=environ, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def processes(place: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Living processes that a launcher of this test has started, with their environment."""
    yield from ((pid, environ) for pid, environ in living() if environ.get("WHERE") == str(place))


def pid_of_rank(place: Path, rank: str) -> int:
    (pid,) = [pid for pid, environ in processes(place) if rank == environ.get(
        "OMPI_COMM_WORLD_RANK", environ.get("RANK_ID")) and environ.get("MS_ROLE") != "MS_SCHED"
        and "train.py" in Path(f"/proc/{pid}/cmdline").read_text()]
    return pid


def wait_until(process: subprocess.Popen, condition, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.1)


def nothing_is_left(place: Path) -> None:
    """The `tee` of a launcher ends a moment after it."""
    end = time.monotonic() + 5
    while left := [pid for pid, _ in processes(place)]:
        assert time.monotonic() < end, left
        time.sleep(0.1)


def newest_epoch(place: Path) -> int:
    folder = place / "run" / "ckpt"
    paths = list_checkpoints(folder) if folder.is_dir() else []
    return int(paths[-1].stem.partition("-")[2].partition("_")[0]) if paths else 0


@pytest.mark.parametrize("script", ["train_distribute_cpu.sh", "train_distribute_gpu.sh"])
def test_a_killed_rank_ends_the_job_and_the_run_resumes(place: Path, script: str) -> None:
    if script == "train_distribute_gpu.sh" and shutil.which("mpirun") is None:
        pytest.skip("mpirun is not installed (on Debian: apt-get install openmpi-bin)")
    # --device_target comes last, so the launcher for GPUs trains on CPU ranks here.
    process = launch(place, script, "--config", place / "recipe.json", "--epochs", 2000, "--run_dir", place / "run",
                     "--device_target", "CPU")
    wait_until(process, lambda: newest_epoch(place) > 0)
    os.kill(pid_of_rank(place, "1"), signal.SIGKILL)
    began = time.monotonic()
    output, _ = process.communicate(timeout=60)
    seconds = time.monotonic() - began
    print(f"{script}: ended {seconds:.1f} s after SIGKILL of rank 1")
    assert seconds < 60
    assert process.returncode == 128 + signal.SIGKILL, output
    assert re.search("^error: rank 1 was killed by SIGKILL", output, re.MULTILINE), output
    assert "Traceback" not in output
    nothing_is_left(place)
    assert (place / "run" / "train_rank1.log").is_file()
    assert pd.read_csv(place / "run" / "history.csv")["epoch"].is_unique  # one writer

    if script == "train_distribute_gpu.sh":
        return  # resuming takes as long again, and is the same from here on
    reached = newest_epoch(place)
    process = launch(place, script, "--resume", "run", "--device_target", "CPU")
    wait_until(process, lambda: newest_epoch(place) > reached)
    process.terminate()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert f"at its newest checkpoint, after epoch {reached}, " in output
    assert "error: SIGTERM: ending all ranks" in output
    nothing_is_left(place)


def has_namespaces() -> bool:
    return os.geteuid() == 0 and shutil.which("ip") is not None and subprocess.run(
        ["ip", "netns", "add", f"vnet-probe-{os.getpid()}"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def nodes() -> Iterator[list[str]]:
    """Two network namespaces joined by a cable: 10.231.0.1 and 10.231.0.2."""
    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    if not has_namespaces():
        pytest.skip("no network namespaces: they need root and iproute2")
    ip("netns", "del", f"vnet-probe-{os.getpid()}")
    names = [f"vnet-{os.getpid()}-{node}" for node in range(2)]
    cable = [f"vn{os.getpid()}n{node}" for node in range(2)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", cable[0], "netns", names[0], "type", "veth", "peer", "name", cable[1], "netns", names[1])
        for node, name in enumerate(names):
            ip("-n", name, "address", "add", f"10.231.0.{node + 1}/24", "dev", cable[node])
            for device in (cable[node], "lo"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


OWN_MEMORY = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh")


def launch_nodes(place: Path, nodes: list[str], *arguments: object) -> list[subprocess.Popen]:
    """A rank in each network namespace; the second has a /dev/shm of its own, as another machine has."""
    return [launch(place, "train_distribute_cpu.sh", *arguments, ranks=1,
                   prefix=("ip", "netns", "exec", name, *(OWN_MEMORY if node else ())), NODE_NUM="2",
                   NODE_RANK=str(node), MASTER_ADDR="10.231.0.1", MASTER_PORT="12345")
            for node, name in enumerate(nodes)]


def test_two_nodes_train_together_until_one_is_lost(place: Path, nodes: list[str]) -> None:
    jobs = launch_nodes(place, nodes, "--config", place / "recipe.json", "--epochs", EPOCHS, "--run_dir", place / "run")
    outputs = [job.communicate(timeout=300)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], "\n".join(outputs)
    assert f"done: {EPOCHS} epochs" in outputs[0]
    assert "the ranks share no memory" in outputs[0]
    assert json.loads((place / "run" / "recipe.json").read_text())["backend"]["world_size"] == 2

    jobs = launch_nodes(place, nodes, "--resume", place / "run", "--epochs", 2000)
    wait_until(jobs[0], lambda: newest_epoch(place) > EPOCHS)
    os.kill(pid_of_rank(place, "1"), signal.SIGKILL)
    began = time.monotonic()
    outputs = [job.communicate(timeout=60)[0] for job in jobs]
    print(f"both nodes ended {time.monotonic() - began:.1f} s after SIGKILL of rank 1")
    assert [job.returncode for job in jobs] == [2, 128 + signal.SIGKILL], "\n".join(outputs)
    assert re.search("^error: rank 1 at 10.231.0.2 is gone, so all ranks here are ended", outputs[0], re.MULTILINE)
    assert re.search("^error: rank 1 was killed by SIGKILL", outputs[1], re.MULTILINE)
    assert "Traceback" not in "".join(outputs)
    nothing_is_left(place)


def test_a_node_that_never_comes(place: Path) -> None:
    job = launch(place, "train_distribute_cpu.sh", "--config", place / "recipe.json", "--run_dir", place / "run",
                 ranks=1, NODE_NUM="2", NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()),
                 MS_TOPO_TIMEOUT="2")
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 2, output
    assert re.search("^error: rank 1 of 2 did not come within 2 s; look at their logs", output, re.MULTILINE), output
    nothing_is_left(place)
