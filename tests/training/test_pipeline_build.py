"""Which runs are pipelines, and where their split comes from."""

import json

import pytest

from src.backend import Backend
from src.errors import UserError
from src.losses import build_loss
from src.networks import UNet3d
from src.overrides import load_recipe
from src.training import pipeline_build
from src.training.pipeline_balance import BlockTimes
from src.training.pipeline_build import build_pipeline_step, is_pipeline


@pytest.fixture
def alone(monkeypatch):
    """Both ranks' talk is left out: this one hears itself."""
    monkeypatch.setattr(pipeline_build, "gather", lambda backend, value: [value, value])
    monkeypatch.setattr(pipeline_build, "open_channel", lambda backend: None)


def test_two_ranks_share_the_network_unless_told_otherwise():
    recipe = load_recipe("unet3d_brain")
    assert is_pipeline(recipe, Backend("CPU", world_size=2))
    assert not is_pipeline(recipe, Backend("CPU"))
    assert not is_pipeline(load_recipe("unet3d_brain", overrides=["parallel=data"]), Backend("CPU", world_size=4))
    assert not is_pipeline(load_recipe(), Backend("CPU", world_size=2))
    with pytest.raises(UserError, match="found 4 ranks, expected 2"):
        is_pipeline(recipe, Backend("CPU", world_size=4))
    with pytest.raises(UserError, match="parallel=pipeline on GPU: .* --set parallel=data"):
        is_pipeline(recipe, Backend("GPU", world_size=2))
    assert is_pipeline(recipe, Backend("Ascend", world_size=2))


def step_of(tmp_path, *overrides, amp_level="O0", resumed=False):
    recipe = load_recipe("unet3d_brain", overrides=overrides)
    return build_pipeline_step(UNet3d(), build_loss({"loss": "bce"}), recipe,
                               Backend("CPU", world_size=2, amp_level=amp_level), tmp_path,
                               lambda: pytest.fail("measured without need"), resumed)


def test_a_given_split(tmp_path, alone, caplog):
    step = step_of(tmp_path, "pipeline_split=4")
    assert (step.split, len(step.own)) == (4, 4)
    assert "micro_batches=1: each rank waits" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_measured_split_is_stored_and_used_again(tmp_path, alone, monkeypatch):
    import numpy as np

    from src.data.data_manager import Sample
    from src.data.geometry import Geometry

    grid = Geometry((16, 16, 7))
    sample = Sample("BRATS_1", np.ones((4, 16, 16, 7), np.float32), np.ones((16, 16, 7), np.uint8), grid, grid)
    shapes = []

    def measure(network, loss, image, label):
        shapes.append((image.shape, label.shape))
        return BlockTimes([1.0] * 13, [3.0] * 13)

    monkeypatch.setattr(pipeline_build, "measure_blocks", measure)
    recipe = load_recipe("unet3d_brain", overrides=["micro_batches=2"])
    step = build_pipeline_step(UNet3d(), build_loss({"loss": "bce"}), recipe, Backend("CPU", world_size=2), tmp_path,
                               lambda: sample)
    # 4 seconds a block on rank 0 and 3 on rank 1: 6 blocks take 24 and 21, 5 take 20 and 24.
    # The slower stage takes as long in both, and the first such split is taken.
    assert step.split == 5
    assert shapes == [((1, 4, 16, 16, 7), (1, 16, 16, 7))]
    saved = json.loads((tmp_path / "pipeline.json").read_text())
    assert saved["split"] == 5
    assert saved["stage_seconds"] == [20, 24]
    (tmp_path / "pipeline.json").write_text('{"split": 7}')
    assert step_of(tmp_path, "micro_batches=2", resumed=True).split == 7
    # Without a run around it the file is an earlier one's.
    step = build_pipeline_step(UNet3d(), build_loss({"loss": "bce"}), recipe, Backend("CPU", world_size=2), tmp_path,
                               lambda: sample)
    assert (step.split, len(shapes)) == (5, 2)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"split": 13}', '{"split": "5"}', '{"seconds": 1}'])
def test_a_damaged_file_is_refused(tmp_path, alone, text):
    (tmp_path / "pipeline.json").write_text(text)
    with pytest.raises(UserError, match=r"pipeline.json: found .*, expected a split from 1 to 12 .*; remove the file"):
        step_of(tmp_path, "micro_batches=2", resumed=True)


def test_half_precision_is_refused(tmp_path, alone):
    with pytest.raises(UserError, match="amp_level O2"):
        step_of(tmp_path, amp_level="O2")
