"""Blocks by a network of pictures: axes, batches of one size, and what is put around it."""

from pathlib import Path

import numpy as np
import pytest

from src.inference.compose import wrap_predictor
from src.inference.ensemble import EnsemblePredictor
from src.inference.predictor import ExportedPredictor
from src.inference.slices import SlicePredictor, block_pictures
from src.overrides import load_recipe

BLOCK = np.random.default_rng(0).random((3, 4, 5, 7)).astype(np.float32)  # (C, X, Y, Z)


class Pictures:
    """Answers with the weighted sum of the channels times a ramp along W, and remembers the batches."""

    path: Path | None = Path("best.ckpt")

    def __init__(self, factor: float = 1.0):
        self.factor = factor
        self.shapes: list[tuple[int, ...]] = []

    def predict_batch(self, batch: np.ndarray) -> np.ndarray:
        assert batch.flags.c_contiguous
        self.shapes.append(batch.shape)
        ramp = np.arange(batch.shape[3], dtype=np.float32)
        weights = np.arange(1, batch.shape[1] + 1, dtype=np.float32).reshape(-1, 1, 1)
        return self.factor * (batch * weights).sum(axis=1) * ramp


class Exported(Pictures, ExportedPredictor):
    """The same for one size of batch, as an exported model."""

    def __init__(self, shape):
        Pictures.__init__(self)
        self.shape = shape

    def names(self):
        return "image", "probability"

    def _run(self, batch):
        return batch


def expected(block: np.ndarray) -> np.ndarray:
    """What `Pictures` says of a block (C, X, Y, Z), written down for the block's own axes: W is X."""
    weights = np.arange(1, len(block) + 1, dtype=np.float32).reshape(-1, 1, 1, 1)
    return (block * weights).sum(axis=0) * np.arange(block.shape[1], dtype=np.float32)[:, None, None]


def test_pictures_are_slices_with_rows_along_y():
    pictures = block_pictures(BLOCK)
    assert pictures.shape == (7, 3, 5, 4)
    assert pictures[6, 2, 4, 3] == BLOCK[2, 3, 4, 6]


@pytest.mark.parametrize(("batch", "batches"), [(1, 7), (3, 3), (7, 1), (16, 1)])
def test_batches_are_of_one_size_and_never_larger_than_the_first_block(batch, batches):
    inner = Pictures()
    predictor = SlicePredictor(inner, batch)
    np.testing.assert_allclose(predictor.predict_block(BLOCK), expected(BLOCK), rtol=1e-6)
    assert inner.shapes == [(min(batch, 7), 3, 5, 4)] * batches
    np.testing.assert_allclose(predictor.predict_block(BLOCK[..., :2]), expected(BLOCK[..., :2]), rtol=1e-6)
    assert {shape[0] for shape in inner.shapes} == {min(batch, 7)}
    assert predictor.path == Path("best.ckpt")


def test_no_batch():
    with pytest.raises(ValueError, match="one picture at least"):
        SlicePredictor(Pictures(), 0)


def test_batch_size_of_the_recipe_and_of_an_exported_model():
    recipe = load_recipe("unet2d_lgg", overrides=["batch_size=2"])
    inner = Pictures()
    found = wrap_predictor(inner, recipe).predict_block(BLOCK)
    np.testing.assert_allclose(found, expected(BLOCK), rtol=1e-6)
    assert inner.shapes == [(2, 3, 5, 4)] * 4
    exported = Exported((3, 3, 5, 4))
    np.testing.assert_array_equal(wrap_predictor(exported, recipe).predict_block(BLOCK[..., :1]), found[..., :1])
    assert exported.shapes == [(3, 3, 5, 4)]


def test_ensemble_is_the_mean_of_its_networks():
    members = [Pictures(0.5), Pictures(1.0), Pictures(3.0)]
    found = wrap_predictor(EnsemblePredictor(members), load_recipe("unet2d_lgg")).predict_block(BLOCK)
    np.testing.assert_allclose(found, 1.5 * expected(BLOCK), rtol=1e-5)
    assert all(member.shapes == [(7, 3, 5, 4)] for member in members)


def test_mirrored_pictures_are_averaged():
    recipe = load_recipe("unet2d_lgg", overrides=["tta=xy"])
    inner = Pictures()
    found = wrap_predictor(inner, recipe, mirrored=True).predict_block(BLOCK)
    total = (BLOCK * np.float32([1, 2, 3]).reshape(3, 1, 1, 1)).sum(axis=0)
    np.testing.assert_allclose(found, total * 1.5, rtol=1e-5)  # the mean of the ramp 0, 1, 2, 3 and its mirror image
    assert len(inner.shapes) == 4
