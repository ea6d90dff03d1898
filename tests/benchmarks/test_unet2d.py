"""What the times mean."""

import pytest
from cpu_vs_monai_pool import Entry
from unet2d import ratios


def entry(mode, contender, seconds, rss=None):
    return Entry(mode, "256x256", 4, contender, seconds=seconds, peak_rss_bytes=rss)


def test_ratios_by_hand():
    entries = [entry("train", "unet2d-ours", [1.0, 3.0, 2.0], 300), entry("train", "unet2d-torch", [5.0, 9.0, 8.0], 1),
               entry("train", "unet2d-torch-cl", [5.0, 2.5, 4.0], 600), entry("train", "unet2d-stock", [40.0]),
               entry("infer", "unet2d-ours", [1.0]), entry("infer", "unet2d-torch", [])]
    assert ratios(entries) == {"train_ratio": 0.5, "train_min_ratio": 0.4, "train_rss_ratio": 0.5,
                               "train_stock_ratio": pytest.approx(0.05)}
