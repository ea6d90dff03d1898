"""Figures of the pipeline benchmark from made-up times."""

import pipeline
import pytest


def rank(number: int, micro: float, one: float, whole: float) -> dict:
    entry = {way: {"seconds": seconds, "busy_seconds": seconds / 2, "bytes_sent": 8_000_000}
             for way, seconds in (("micro_batches", micro), ("one_volume", one), ("whole_batch", whole))}
    return {"rank": number, "rounds": [entry, entry], "peak_gib": 1.5 + number, "split": 6}


def test_summary():
    one_device = {"rounds": [{"micro_batches": {"seconds": 16.0}}], "peak_gib": 4.0}
    figures = pipeline.summarise([rank(0, 10, 20, 16), rank(1, 10, 20, 16)], one_device, 8)
    assert figures["volumes_per_second_micro_batches"] == pytest.approx(0.8)
    assert figures["volumes_per_second_one_device"] == pytest.approx(0.5)
    assert (figures["speedup_over_one_volume"], figures["speedup_over_whole_batch"]) == (2.0, 1.6)
    assert figures["speedup_over_one_device"] == pytest.approx(1.6)
    assert figures["busy_share_rank1_one_volume"] == pytest.approx(0.5)
    assert figures["mb_sent_a_volume_rank0"] == pytest.approx(1.0)
    assert figures["peak_gib_rank1"] == 2.5
    assert list(figures)[-1] == "pipeline_speedup"
    assert figures["pipeline_speedup"] == 1.6
