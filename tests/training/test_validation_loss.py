"""The validation loss of pictures against float64."""

import numpy as np
import pytest
from mindspore import nn

from src.backend import Backend
from src.data.case import Case
from src.data.data_manager import Sample
from src.data.geometry import Geometry
from src.errors import UserError
from src.losses import build_loss
from src.overrides import load_recipe
from src.training import validation_loss as module
from src.training.validation_loss import LossPredictor, validation_labels
from tests.training.helpers import PictureNetwork

# Slices of the cases: a batch and a part of one; one slice; whole batches.
SLICES = (5, 1, 6)


def cases(channels: int = 2) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return blocks (C, X, Y, Z) and labels (X, Y, Z), not square; the second label is empty."""
    rng = np.random.default_rng(0)
    blocks = [rng.normal(size=(channels, 6, 4, count)).astype(np.float32) for count in SLICES]
    labels = [(rng.random((6, 4, count)) < 0.4 * (count > 1)).astype(np.uint8) for count in SLICES]
    return blocks, labels


def make(labels, *overrides, network: nn.Cell | None = None) -> LossPredictor:
    recipe = load_recipe("unet2d_lgg", overrides=["batch_size=3", *overrides])
    return LossPredictor(network or PictureNetwork(), build_loss(recipe), recipe, labels, Backend("CPU"))


def test_cross_entropy_is_the_mean_over_the_cases():
    blocks, labels = cases()
    network = PictureNetwork()
    network.set_train(True)
    predictor = make(labels, "loss=bce", network=network)
    probabilities = [predictor.predict_block(block) for block in blocks]
    logits = [0.5 * block.sum(axis=0, dtype=np.float64) for block in blocks]
    expected = [(np.logaddexp(0, z) - g * z).mean() for z, g in zip(logits, labels, strict=True)]
    assert predictor.mean_loss() == pytest.approx(np.mean(expected), rel=1e-6)
    for probability, z in zip(probabilities, logits, strict=True):
        assert probability.dtype == np.float32
        np.testing.assert_allclose(probability, 1 / (1 + np.exp(-z)), rtol=1e-5)
    assert network.training  # the three heads of which played no part


def test_dice_over_the_batch_is_that_of_the_volume():
    """And the next validation begins anew, with other weights."""
    blocks, labels = cases()
    network = PictureNetwork()
    predictor = make(labels, "dice_over=batch", network=network)
    found = []
    for weight in (0.5, 2.0):
        network.weight.set_data(network.weight * 0 + weight)
        for block in blocks:
            predictor.predict_block(block)
        found.append(predictor.mean_loss())
        expected = []
        for block, g in zip(blocks, labels, strict=True):
            p = 1 / (1 + np.exp(-weight * block.sum(axis=0, dtype=np.float64)))
            expected.append(1 - 2 * (p * g).sum() / ((p**2).sum() + g.sum() + 1e-5))
        assert found[-1] == pytest.approx(np.mean(expected), rel=1e-5)
    assert found[0] != found[1]


def test_the_mean_is_over_the_cases_of_all_ranks(monkeypatch):
    blocks, labels = cases()
    monkeypatch.setattr(module, "gather_shares", lambda backend, work: [1.0, *work(), 3.0])
    predictor = make(labels, "loss=bce")
    predictor.loss = lambda logits, label: logits.sum() * 0 + 2
    predictor.predict_block(blocks[0])
    assert predictor.mean_loss() == 2.0


def test_labels_are_those_of_the_rank_and_have_to_be_there(tmp_path):
    grid = Geometry((6, 4, 1))

    class Manager:
        def load_label(self, case):
            number = int(case.case_id)
            label = None if number == 3 else np.full((6, 4, 1), number, np.uint8)
            return Sample(case.case_id, np.zeros((1, 6, 4, 1), np.float32), label, grid, grid)

    def of(*numbers):
        return [Case(str(number), tmp_path / f"{number}.png") for number in numbers]

    labels = validation_labels(Manager(), of(0, 1, 2), Backend("CPU", rank=0, world_size=2))
    assert [label.max() for label in labels] == [0, 2]
    with pytest.raises(UserError, match=r"3: .*3\.png has no ground truth, and validation needs one"):
        validation_labels(Manager(), of(2, 3), Backend("CPU"))
