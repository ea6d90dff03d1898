"""The validation loss of pictures against float64."""

import numpy as np
import pytest
from mindspore import nn

from src.backend import Backend
from src.data import build_manager, drive, em, lgg
from src.inference.evaluate import ValidationSet
from src.losses import build_loss
from src.overrides import load_recipe
from src.training import validation_loss as module
from src.training.validation_loss import LossPredictor, validation_labels
from tests.pictures import make_drive, make_em, make_lgg
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


@pytest.mark.parametrize(("task", "make"), [(lgg, make_lgg), (drive, make_drive), (em, make_em)])
def test_labels_are_those_that_training_would_see_and_nothing_is_read_again(task, make, tmp_path, monkeypatch):
    """Those of the rank; the drawn vessels of DRIVE all lie in the field of view."""
    make(tmp_path)
    recipe = load_recipe(f"unet2d_{task.__name__.rpartition('.')[2]}", overrides=["image_size=[32,48]"])
    manager, cases = build_manager(recipe), task.find_cases(tmp_path, task.all_names(tmp_path)[:3])
    expected = [manager.load(case).label for case in cases]
    validation = ValidationSet(manager, cases, Backend("CPU", rank=0, world_size=2))
    monkeypatch.setattr(manager, "read_pictures", None)
    labels = validation_labels(validation)
    assert len(labels) == 2
    for found, wanted in zip(labels, expected[::2], strict=True):
        assert found.shape[:2] == (32, 48) and found.dtype == np.uint8 and found.any()
        np.testing.assert_array_equal(found, wanted)
