"""cpu_vs_monai.py: its ratios by hand, and its rounds with a stand-in for the workers. Nothing is measured here."""

import sys
import time
from pathlib import Path

import cpu_vs_monai_pool as pool
import cpu_vs_monai_report as report
import pytest
from cpu_vs_monai_pool import Entry, Worker, WorkerFailed, losers, run_rounds

# Answers as cpu_vs_monai_worker.py does, notes each command in ./order; its step "takes" what the name says.
_STAND_IN = """
import json, sys, time
name = sys.argv[1]
ready = {"unsupported": "no such level"} if name == "ours-bf16" else {"parameters": 7, "remark": ""}
print(json.dumps(ready), flush=True)
for number, line in enumerate(sys.stdin):
    command = line.strip()
    with open("order", "a") as order:
        order.write(f"{name} {command}\\n")
    if name == "ours-dead" and number == 2:
        sys.exit(3)
    time.sleep(60 if name == "ours-slow" else 0)
    seconds = {"monai-fp32": 2.0, "monai-fp32-cl": 3.0, "stock": 50.0}.get(name, 1.0)
    answers = {"step": {"seconds": seconds, "cpu_seconds": 0.5, "value": 0.25}, "memory": {"peak_rss_bytes": 1024},
               "profile": {"profile": None}}
    print(json.dumps(answers[command]), flush=True)
"""


def entry(contender: str, *seconds: float, mode: str = "train", size: str = "128x128x64", batch: int = 1,
          memory: int | None = None) -> Entry:
    return Entry(mode, size, batch, contender, list(seconds), peak_rss_bytes=memory)


def test_closing_ratios_take_medians_of_the_best_at_batch_1():
    ratios = report.closing_ratios([
        entry("ours-fp32", 3, 4, 8, memory=600), entry("ours-bf16", 2, 3, 2.5, memory=300),
        entry("stock", 0.1), entry("monai-fp32", 16, 9, 20, memory=900), entry("monai-fp32-cl", 10, 10, 10, memory=800),
        entry("monai-bf16-cl", 5, 4, 6, memory=400), entry("monai-bf16", memory=1),
        entry("ours-fp32", 1, mode="infer"), entry("monai-bf16", 4, mode="infer"), entry("monai-fp32", 3, mode="infer"),
        entry("ours-fp32", 1, batch=2), entry("monai-fp32", 1, size="64x64x32")])
    assert ratios["train_fp32_ratio_128"] == 4 / 10
    assert ratios["train_fp32_ratio_min_128"] == 3 / 10
    assert ratios["train_best_ratio_128"] == 2.5 / 5
    assert ratios["infer_ratio_128"] == pytest.approx(1 / 3)
    assert ratios["rss_ratio_128"] == 600 / 800  # fp32; 300 / 400 in bf16
    assert ratios["rss_best_ratio_128"] == 300 / 400
    assert ratios["train_fp32_ratio_64"] is None
    lines = report.closing_lines(ratios)
    assert "train_fp32_ratio_128=0.400" in lines
    assert "train_fp32_ratio_64=nan" in lines
    assert lines[-1].startswith("rss_ratio_64=")


def test_shares_are_of_the_whole_step():
    profile = {"convolution": 6.0, "pointwise": 1.0, "optimizer": 0.5, "other": 0.1, "total": 10.0}
    assert report.shares(profile) == pytest.approx((0.6, 0.1, 0.05, 0.25))


def test_tables_show_ratios_and_leave_open_what_was_not_measured():
    ours = entry("ours-fp32", 2.0, memory=2**30)
    ours.profile = {"convolution": 1.0, "pointwise": 0.5, "optimizer": 0.25, "total": 2.0}
    first, second = report.table([ours, entry("monai-fp32")]).splitlines()[2:]
    assert [cell.strip() for cell in first.split("|")][1:12] == ["train", "128x128x64", "1", "ours-fp32", "1", "2.000",
                                                               "2.000", "2.000", "", "", "1.00"]
    assert [cell.strip() for cell in second.split("|")][4:12] == ["monai-fp32", "0", "", "", "", "", "", ""]
    assert [cell.strip() for cell in report.share_table([ours]).splitlines()[-1].split("|")][5:9] == ["50", "25", "12",
                                                                                                    "12"]


def test_warnings_name_a_busy_machine_and_a_worker_that_does_not_rest():
    busy, restless = entry("monai-fp32", 1), entry("ours-fp32", 1)
    busy.other_cores, restless.idle_cores = [0.0, 0.5], 0.3
    found = report.warnings([busy, restless, entry("ours-bf16", 1)])
    assert len(found) == 2
    assert "0.50 cores" in found[0]
    assert "ours-fp32: kept 0.30" in found[1]


def test_losers_are_stock_and_what_is_a_tenth_slower_in_its_precision():
    assert losers([entry("stock", 1), entry("ours-fp32", 9), entry("monai-fp32", 1.0), entry("monai-fp32-cl", 1.09),
                   entry("monai-bf16", 0.6), entry("monai-bf16-cl", 0.5)]) == {"stock", "monai-bf16"}


@pytest.fixture
def make_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = tmp_path / "stand_in.py"
    script.write_text(_STAND_IN)
    monkeypatch.setattr(pool, "WORKER", script)
    return lambda name: Worker(entry(name), Path(sys.executable), {}, tmp_path / "log")


def test_workers_take_turns_losers_leave_and_failures_are_noted(make_worker, tmp_path):
    workers = [make_worker(name) for name in ("ours-fp32", "ours-bf16", "ours-dead", "stock", "monai-fp32",
                                              "monai-fp32-cl")]
    run_rounds(workers, least=3, most=5, deadline=0.0, limit=10, profiled=True, say=lambda text: None)
    by_name = {worker.entry.contender: worker.entry for worker in workers}
    assert by_name["ours-fp32"].seconds == [1, 1, 1]
    assert by_name["monai-fp32"].peak_rss_bytes == 1024
    assert by_name["monai-fp32-cl"].seconds == [3]
    assert by_name["stock"].seconds == [50]
    assert by_name["ours-bf16"].note == "not run: no such level"
    assert by_name["ours-dead"].note.startswith("failed: ended with exit code 3")
    lines = (tmp_path / "order").read_text().splitlines()
    second = [line.split()[0] for line in lines if line.endswith("step")][10:13]
    assert second == ["monai-fp32", "ours-dead", "ours-fp32"]  # after 5 first steps and 5 of round 1: backwards
    assert all(worker.process is None for worker in workers)


def test_worker_that_takes_too_long_is_ended(make_worker):
    worker = make_worker("ours-slow")
    began = time.perf_counter()
    with pytest.raises(WorkerFailed, match="longer than its limit"):
        worker.start(limit=1)
    worker.end()
    assert time.perf_counter() - began < 10
