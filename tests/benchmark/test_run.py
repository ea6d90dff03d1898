"""How the answers of ranks become one result, and what becomes of jobs that give none."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from src.benchmark.plan import Job
from src.benchmark.run import ROOT, combine, describe, run_jobs


def answer(rank, seconds, first=1.0, memory=100.0, notes=()):
    return {"rank": rank, "seconds": seconds, "first_seconds": first, "peak_memory_mib": memory, "notes": list(notes),
            "input_shape": [2, 1, 64, 64]}


def test_the_slowest_rank_counts():
    result = combine([answer(0, [0.1, 0.4, 0.2], 3.0, 90, ["a"]), answer(1, [0.3, 0.2, 0.2], 2.0, 95, ["a", "b"])])
    assert result["images_per_second"] == pytest.approx(2 * 2 / 0.3)  # 0.3, 0.4, 0.2 s: 0.3 on average
    latency = result["latency_ms"]
    assert (latency["mean"], latency["min"], latency["max"], latency["p50"]) == pytest.approx((300, 200, 400, 300))
    assert latency["p90"] == pytest.approx(380) and latency["p99"] == pytest.approx(398)
    assert (result["first_seconds"], result["peak_memory_mib"], result["notes"]) == (3.0, 95, ["a", "b"])
    assert describe({"status": "measured", **result}) == "13.3 images/s, p50 300.0 ms, p99 398.0 ms, first 3.0 s"


def test_percentiles_are_those_of_numpy():
    seconds = np.random.default_rng(0).exponential(size=50)
    latency = combine([answer(0, list(seconds))])["latency_ms"]
    expected = 1000 * np.percentile(seconds, (50, 90, 95, 99))
    assert [latency[f"p{p}"] for p in (50, 90, 95, 99)] == pytest.approx(expected)


def job(**changes):
    return Job(**{"phase": "infer", "mode": "graph", "precision": "fp32", "ranks": 1, "batch_size": 2, "recipe": {},
                  **changes})


@pytest.fixture
def started(monkeypatch):
    """Stand-in for the processes: what they were started with; `say` is what they do."""
    seen = []

    def run(command, stdout, env, **_):
        folder = Path(command[-1])
        settings = json.loads((folder / "job.json").read_text())
        seen.append((command, env, settings))
        return subprocess.CompletedProcess(command, run.say(folder, settings, stdout))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("src.benchmark.run.busy_cores", lambda: 0.0)
    return seen, run


def test_each_job_has_processes_of_its_own(started, tmp_path):
    seen, run = started

    def say(folder, settings, log):
        for rank in range(settings["ranks"]):
            (folder / f"rank{rank}.json").write_text(json.dumps(answer(rank, [0.5])))
        return 0

    run.say = say
    results = run_jobs([job(), job(ranks=2), job(refused="not today")], tmp_path / "logs")
    assert [result["status"] for result in results] == ["measured", "measured", "refused"]
    assert [result.get("images_per_second") for result in results] == [4, 8, None]
    assert results[2]["reason"] == "not today" and results[1]["name"] == "infer-graph-fp32-ranks2-batch2"
    (alone, environ, settings), (both, other, _) = seen
    assert alone[1:3] == [str(ROOT / "benchmark.py"), "--run_job"] and settings["batch_size"] == 2
    assert both[1] == str(ROOT / "scripts/run_ranks.py") and "--worker_num=2" in both
    threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert environ["OMP_NUM_THREADS"] == other["OMP_NUM_THREADS"] == threads, "one rank has no more than one of two"
    assert (tmp_path / "logs/infer-graph-fp32-ranks1-batch2.log").exists()


def test_a_busy_machine_is_noted(started, tmp_path, monkeypatch):
    _, run = started
    run.say = lambda folder, settings, log: (folder / "rank0.json").write_text(json.dumps(answer(0, [0.5]))) and 0
    assert run_jobs([job()], tmp_path)[0]["notes"] == []
    monkeypatch.setattr("src.benchmark.run.busy_cores", lambda: 1000.0)
    assert run_jobs([job()], tmp_path)[0]["notes"][0].startswith("the machine was busy beforehand (1000.0 of ")


@pytest.mark.parametrize(("said", "code", "reason"), [
    ("loading\nerror: no such device\nerror: rank 0 ended with exit code 2\n", 2, "no such device"),
    ("Traceback\nValueError: odd\n", 1, "ValueError: odd"),
    ("working\n", -9, "killed by signal 9"),
    ("", 1, "exit code 1 without a word"),
    ("all is well\n", 0, "all is well"),  # but there is no answer
])
def test_a_job_that_fails_says_why_and_ends_no_other(started, tmp_path, said, code, reason):
    seen, run = started
    run.say = lambda folder, settings, log: (log.write(said), code)[1]
    results = run_jobs([job(), job(mode="eager")], tmp_path)
    assert [result["status"] for result in results] == ["failed", "failed"]
    assert results[0]["reason"].startswith(reason) and str(tmp_path) in results[0]["reason"]
    assert "OMP_NUM_THREADS" not in seen[0][1]
