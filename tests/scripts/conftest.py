"""Stand-in programs that record how they were called."""

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
BASH = "/bin/bash"

# Runs with -S -E: quick, and free of whatever environment the tests run in.
_STAND_IN = f"""#!{sys.executable} -SE
import json, os, sys
if sys.argv[1:] and sys.argv[1].endswith("run_ranks.py"):
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])  # no stand-in: it starts what is one
call = {{"program": os.path.basename(sys.argv[0]), "argv": sys.argv[1:], "cwd": os.getcwd(), "pid": os.getpid(),
        "env": {{name: value for name, value in os.environ.items() if name.startswith(
            ("RANK_", "DEVICE_", "CUDA_VISIBLE", "MASTER_", "LOCAL_WORLD"))}}}}
line = (json.dumps(call) + "\\n").encode()
descriptor = os.open(os.environ["STAND_IN_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(descriptor, line)
print("stand-in", call["program"], "rank", os.environ.get("RANK_ID"), flush=True)
failing = os.environ.get("STAND_IN_FAILING_RANK")
if failing is None or failing == os.environ.get("RANK_ID"):
    sys.exit(int(os.environ.get("STAND_IN_EXIT", "0")))
import time
time.sleep(60)  # a rank that waits for the failed one
"""


@dataclass
class Workplace:
    """A folder to start launchers from, with stand-ins first on PATH and inputs whose paths have spaces."""

    folder: Path
    stand_ins: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `scripts/<script>` from `folder`, an outsider to the repository, with relative paths."""
        return subprocess.run([BASH, str(REPO / "scripts" / script), *arguments], cwd=self.folder, check=False,
                              env={**self.environment, **environment}, capture_output=True, text=True, timeout=60)

    def calls(self) -> list[dict[str, Any]]:
        record = Path(self.environment["STAND_IN_RECORD"])
        return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def rank_table(*servers: Mapping[int, int] | Sequence[int]) -> str:
    """An hccl.json; of each server a mapping from rank to device id, or the device ids in the order of the ranks."""
    made = []
    for number, devices in enumerate(servers):
        first = sum(map(len, servers[:number]))
        ranks = devices.items() if isinstance(devices, Mapping) else enumerate(devices, first)
        entries = [{"device_id": str(device), "device_ip": f"192.0.2.{rank}", "rank_id": str(rank)}
                   for rank, device in ranks]
        made.append({"server_id": f"198.51.100.{number + 1}", "device": entries, "host_nic_ip": "reserve"})
    return json.dumps({"version": "1.0", "server_count": str(len(made)), "server_list": made, "status": "completed"},
                      indent=4)


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    folder, stand_ins = tmp_path / "work place", tmp_path / "stand-ins"
    for name in ("python3", "mpirun", "msrun"):
        write_program(stand_ins / name, _STAND_IN)
    (folder / "my data").mkdir(parents=True)
    for name, content in {"my split.csv": "Case00.mhd\n", "best model.ckpt": "weights",
                          "hccl.json": rank_table([0, 1]), "hccl 4.json": rank_table({1: 6, 0: 4})}.items():
        (folder / name).write_text(content)
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("PYTHON", "FOREGROUND", "VENV", "RANK_ID", "DEVICE_ID", "HOSTFILE", "NODE_NUM",
                                   "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "MS_TOPO_TIMEOUT")}
    environment |= {"PATH": f"{stand_ins}:{os.environ['PATH']}", "STAND_IN_RECORD": str(tmp_path / "record.jsonl")}
    return Workplace(folder, stand_ins, environment)


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    def wait(condition: Callable[[], bool], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the condition did not come true in time"
            time.sleep(0.05)

    return wait
