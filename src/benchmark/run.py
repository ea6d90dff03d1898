"""Start each job in processes of its own, one job after another, and put its ranks' answers together."""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from src.benchmark.plan import Job
from src.files import write_json
from src.machine import busy_cores
from src.ranks import end_with_parent, free_port

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
JOB, ANSWER = "job.json", "rank{rank}.json"  # in the folder of a job, which `worker.work` gets
PERCENTILES = (50, 90, 95, 99)
_LAST_LINES = 40
_BUSY_SHARE = 0.3  # of the cores, taken by others
_ERROR = "error: "  # how an entry script begins what it says at its end


def run_jobs(jobs: Sequence[Job], logs: Path) -> list[dict[str, Any]]:
    """Run the jobs and return a result each, one log line each; a job that fails does not end the others.

    On CPU with several ranks every rank of every job, those of one rank included, gets as many threads: the cores
    shared out among the most ranks, unless OMP_NUM_THREADS says otherwise. Else weak scaling would compare ranks with
    different means.

    Args:
        jobs: see `plan_jobs`.
        logs: folder for a log a job.

    Returns:
        For each job its settings, `status` (measured, refused or failed) and `reason`; of a measured one what
        `combine` says.
    """
    results = []
    threads = len(os.sched_getaffinity(0)) // max((job.ranks for job in jobs), default=1)
    shared = any(job.ranks > 1 and job.device_target == "CPU" for job in jobs)
    variables = {"OMP_NUM_THREADS": str(max(1, threads))} if shared else {}
    notes = _busy(busy_cores(), os.cpu_count() or 1)
    for number, job in enumerate(jobs, 1):
        if job.refused:
            result: dict[str, Any] = {"status": "refused", "reason": job.refused}
        else:
            result = _run_job(job, logs / f"{job.name}.log", variables)
            result["notes"] = [*notes, *result.get("notes", [])]
        results.append({**job.settings(), "name": job.name, **result})
        logger.info("%d of %d: %s: %s", number, len(jobs), job.name, describe(results[-1]))
    return results


def combine(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the ranks of a job measured, together.

    Returns:
        images_per_second: of all ranks; latency_ms: mean, min, max and the percentiles p50, p90, p95 and p99 (linear
        interpolation) of the iterations, each as long as its slowest rank; first_seconds and peak_memory_mib: of the
        rank with the most; notes, without repetition; ranks_said: the answers.
    """
    seconds = np.max([answer["seconds"] for answer in answers], axis=0)
    milliseconds = 1000 * seconds
    latency = {"mean": float(milliseconds.mean()), "min": float(milliseconds.min()), "max": float(milliseconds.max()),
               **{f"p{p}": float(np.percentile(milliseconds, p)) for p in PERCENTILES}}
    images = len(answers) * answers[0]["input_shape"][0]
    return {"images_per_second": float(images / seconds.mean()), "latency_ms": latency,
            "first_seconds": max(answer["first_seconds"] for answer in answers),
            "peak_memory_mib": max(answer["peak_memory_mib"] for answer in answers),
            "notes": list(dict.fromkeys(note for answer in answers for note in answer["notes"])),
            "ranks_said": list(answers)}


def describe(result: dict[str, Any]) -> str:
    """A result in one line."""
    if result["status"] != "measured":
        return f"{result['status']}: {result['reason']}"
    latency = result["latency_ms"]
    return (f"{result['images_per_second']:.3g} images/s, p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms, "
            f"first {result['first_seconds']:.1f} s")


def _run_job(job: Job, log: Path, variables: dict[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="vnet-benchmark-") as name:
        folder = Path(name)
        write_json(folder / JOB, asdict(job))
        program = [str(ROOT / "benchmark.py"), "--run_job", str(folder)]
        if job.ranks > 1:  # msrun puts `python` in front itself
            program = [str(ROOT / "scripts/run_ranks.py"), "--log_dir", str(log.with_suffix("").absolute()), "msrun",
                       f"--worker_num={job.ranks}", f"--local_worker_num={job.ranks}",
                       f"--master_port={free_port()}", "--join=True", *program]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as output:
            code = subprocess.run([sys.executable, *program], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output,
                                  stderr=subprocess.STDOUT, check=False, preexec_fn=end_with_parent,
                                  env=_environment(variables)).returncode
        answers = [folder / ANSWER.format(rank=rank) for rank in range(job.ranks)]
        if code == 0 and all(path.exists() for path in answers):
            said = [json.loads(path.read_text(encoding="utf-8")) for path in answers]
            return {"status": "measured", "reason": "", **combine(said)}
    return {"status": "failed", "reason": f"{_reason(log, code)} (log: {log})"}


def _busy(busy: float, cores: int) -> list[str]:
    if busy < _BUSY_SHARE * cores:
        return []
    note = (f"the machine was busy beforehand ({busy:.1f} of {cores} cores), so these times are too long, those of "
            "eager mode most of all: its threads wait for each other at every operator")
    logger.warning("%s", note)
    return [note]


def _environment(variables: dict[str, str]) -> dict[str, str]:
    binaries = str(Path(sys.executable).parent)  # where msrun is
    return {"GLOG_v": "3", **variables, **os.environ, "PATH": os.pathsep.join([binaries, os.environ.get("PATH", "")])}


def _reason(log: Path, code: int) -> str:
    """The line that says why a job failed: the program's own error, else its last word."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    for line in lines[-_LAST_LINES:]:  # a launcher's own word comes behind that of the rank
        if line.startswith(_ERROR):
            return line.removeprefix(_ERROR)
    if code < 0:
        return f"killed by signal {-code} (by hand, or by the kernel for want of memory: see dmesg)"
    return lines[-1] if lines else f"exit code {code} without a word"
