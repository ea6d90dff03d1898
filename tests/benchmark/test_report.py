"""Comparisons, table and chart of results made up by hand."""

import io
import json

import pytest
from PIL import Image

from src.benchmark.report import chart_png, compare, format_results, write_results


def result(phase="train", mode="graph", precision="fp32", ranks=1, batch=1, rate=10.0, **changes):
    latency = {"mean": 100.0, "min": 90.0, "max": 130.0, "p50": 100.0, "p90": 110.0, "p95": 120.0, "p99": 128.0}
    return {"phase": phase, "mode": mode, "precision": precision, "ranks": ranks, "batch_size": batch,
            "name": f"{phase}-{mode}-{precision}-ranks{ranks}-batch{batch}", "status": "measured", "reason": "",
            "images_per_second": rate, "latency_ms": latency, "first_seconds": 4.0, "peak_memory_mib": 512.0,
            "notes": [], **changes}


REFUSED = {"phase": "infer", "mode": "graph", "precision": "bf16", "ranks": 1, "batch_size": 1, "notes": [],
           "name": "infer-graph-bf16-ranks1-batch1", "status": "refused", "reason": "not on this device"}
RESULTS = [result(), result(mode="eager", rate=4.0), result(precision="O2", rate=15.0, notes=["fp16"]),
           result(ranks=2, rate=18.0, notes=["fp16"]), REFUSED, result(batch=2, rate=11.0)]


def test_comparisons_by_hand():
    found = {(pair["kind"], pair["name"], pair["against"]): pair["ratio"] for pair in compare(RESULTS)}
    assert found == {
        ("mode", "train-graph-fp32-ranks1-batch1", "train-eager-fp32-ranks1-batch1"): 2.5,
        ("precision", "train-graph-O2-ranks1-batch1", "train-graph-fp32-ranks1-batch1"): 1.5,
        ("weak_scaling", "train-graph-fp32-ranks2-batch1", "train-graph-fp32-ranks1-batch1"): 0.9}


def test_table():
    lines = format_results(RESULTS, compare(RESULTS)).splitlines()
    assert lines[0].split() == ["phase", "mode", "precision", "ranks", "batch", "images/s", "p50", "[ms]", "p90",
                                "[ms]", "p95", "[ms]", "p99", "[ms]", "first", "[s]", "memory", "[MiB]"]
    assert lines[2].split() == ["train", "graph", "fp32", "1", "1", "10.000", "100.0", "110.0", "120.0", "128.0", "4.0",
                                "512"]
    assert lines[6].split() == ["infer", "graph", "bf16", "1", "1", "refused"]
    assert lines[8:] == ["train-graph-fp32-ranks1-batch1: 2.50 times as fast as eager",
                         "train-graph-O2-ranks1-batch1: 1.50 times as fast as in fp32",
                         "train-graph-fp32-ranks2-batch1: weak scaling 0.90 (1 is ideal)",
                         "infer-graph-bf16-ranks1-batch1: refused: not on this device", "note: fp16"]


def test_chart_grows_with_the_results():
    sizes = [Image.open(io.BytesIO(chart_png(results))).size
             for results in (RESULTS[:1], [*RESULTS, result(phase="infer")])]
    assert [size[0] for size in sizes] == [2200] * 2
    assert sizes[0][1] < sizes[1][1]
    with pytest.raises(ValueError, match="nothing was measured"):
        chart_png([REFUSED])


def test_files(tmp_path):
    write_results(tmp_path, RESULTS, {"command": "python benchmark.py", "title": "unet2d_em on CPU"})
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert content["results"] == RESULTS and content["comparisons"] == compare(RESULTS)
    assert content["command"] == "python benchmark.py"
    assert {"date", "cpu", "cores", "load_average", "versions"} <= set(content["environment"])
    assert (tmp_path / "benchmark.txt").read_text() == format_results(RESULTS, compare(RESULTS)) + "\n"
    assert (tmp_path / "benchmark.png").read_bytes() == chart_png(RESULTS, "unet2d_em on CPU")
    write_results(tmp_path, [REFUSED], {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmark.json", "benchmark.txt"]
