"""Starts the jobs of scaling.py, and asks them for steps."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from src.ranks import free_port

ROOT = Path(__file__).resolve().parent.parent
WORKER = Path(__file__).parent / "scaling_worker.py"
LIMIT_SECONDS = 900  # for a start with compilation, or for a turn


class Job:
    """Ranks that compute when they are asked to, and wait otherwise.

    Args:
        folder: for tasks, answers and logs.
        name: of the job.
        ranks: number of processes, of one thread each.
        size, batch, way: for scaling_worker.py.
    """

    def __init__(self, folder: Path, name: str, ranks: int, size: str, batch: int, way: str):
        self.folder, self.name, self.ranks = folder, name, ranks
        self.asked = 0
        self.log = folder / f"{name}.log"
        command = [sys.executable, str(WORKER), str(folder), name, size, str(batch), way]
        if ranks > 1:  # msrun puts `python` in front itself
            command = [sys.executable, str(ROOT / "scripts/run_ranks.py"), "--log_dir", str(folder / f"{name}-logs"),
                       "msrun", f"--worker_num={ranks}", f"--local_worker_num={ranks}", f"--master_port={free_port()}",
                       "--join=True", *command[1:]]
        binaries = Path(sys.executable).parent
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "GLOG_v": "3", "PATH": f"{binaries}:{os.environ['PATH']}"})

    def ask(self, **task: int) -> list[dict[str, Any]]:
        """Give a task to all ranks and return their answers, in rank order."""
        answers = [self.folder / f"{self.name}.{self.asked}.{rank}.json" for rank in range(self.ranks)]
        self.give(task)
        deadline = time.monotonic() + LIMIT_SECONDS
        while not all(path.exists() for path in answers):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"job {self.name} gave no answer:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.01)
        return [json.loads(path.read_text()) for path in answers]

    def give(self, task: dict[str, int]) -> None:
        path = self.folder / f"{self.name}.{self.asked}.task"
        path.with_suffix(".new").write_text(json.dumps(task))
        path.with_suffix(".new").rename(path)  # appears whole
        self.asked += 1

    def end(self) -> None:
        """Let all ranks leave."""
        self.give({"stop": 1})
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait(60)
