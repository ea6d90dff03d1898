"""Starts the ranks of a test with msrun."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from src.ranks import free_port

ROOT = Path(__file__).parents[2]


def run_on_ranks(ranks: int, arguments: list[object], folder: Path, timeout: float = 240, **variables: str) -> str:
    """Run a Python script on some ranks of one thread each, and return what rank 0 said."""
    logs = folder / "logs"
    command = [str(Path(sys.executable).parent / "msrun"), f"--worker_num={ranks}", f"--local_worker_num={ranks}",
               f"--master_port={free_port()}", "--join=True", f"--log_dir={logs}", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOG_v": "3",
                   "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, start_new_session=True)
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    texts = [path.read_text(errors="replace") for path in sorted(logs.glob("worker_*.log"))]
    assert process.returncode == 0, "\n".join([output, *(text[-3000:] for text in texts)])
    return texts[0]
