"""Predictors: the network's own softmax, its mode, one compilation, and recipes of checkpoints."""

import logging

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.checkpoint import Checkpoint, save_checkpoint
from src.errors import UserError
from src.inference.predictor import NetworkPredictor, load_checkpoint_predictor, recipe_of
from src.losses import build_loss
from src.networks import build_network
from src.ops import ChannelDropout, ConvUnit
from src.overrides import load_recipe, plain, read_changes
from src.training.train_step import TrainStep
from tests.inference.conftest import OVERRIDES


def block(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(32, 32, 32)).astype(np.float32)


def test_probability_is_the_softmax_of_the_networks_logits(predictor):
    image = block()
    logits = predictor.network.set_train(False)(Tensor(image[None, None])).asnumpy().astype(np.float64)
    expected = np.exp(logits[0, 1]) / np.exp(logits[0]).sum(axis=0)
    probability = predictor.predict_block(image)
    assert probability.shape == (32, 32, 32)
    assert probability.dtype == np.float32
    assert expected.std() > 0.01  # a constant answer would agree with anything
    np.testing.assert_allclose(probability, expected, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored(predictor, training, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MindSpore writes rank_0/ where a graph fails to compile
    predictor.network.set_train(training)
    predictor.predict_block(block())
    assert predictor.network.training is training
    assert all(cell.training is training for _, cell in predictor.network.cells_and_names())
    with pytest.raises(ValueError, match="multiple of 16"):
        predictor.predict_block(np.zeros((16, 16, 17), np.float32))
    assert predictor.network.training is training
    predictor.network.set_train(False)


def test_training_and_validation_compile_once_each(backend):
    # A network of two layers with all that acts differently in training, since a V-Net takes long to compile.
    network = nn.SequentialCell(ConvUnit(1, 4, 5, act="elu"), ChannelDropout(0.5, 1), ConvUnit(4, 2, 1, norm=False))
    step = TrainStep(network, build_loss({"loss": "dice"}), load_recipe(), backend)
    predictor = NetworkPredictor(network)
    image = block()[:16, :16, :16]
    batch, label = Tensor(image[None, None]), Tensor((image > 0)[None].astype(np.float32))
    step.set_train(True)
    answers = []
    for _ in range(3):
        step(batch, label, Tensor(0.01, ms.float32))
        answers.append(predictor.predict_block(image))
    assert len(step.compile_cache) == 1
    assert len(predictor.cell.compile_cache) == 1
    # The one graph sees the weights as training leaves them.
    assert np.abs(answers[0] - answers[2]).max() > 1e-4


def test_checkpoint_brings_its_recipe(checkpoint_path):
    _, recipe, checkpoint = load_checkpoint_predictor(checkpoint_path, {"dstRes": [2.0, 2.0, 3.0]})
    assert recipe.base_channels == 2
    assert recipe.VolSize == [32, 32, 32]
    assert recipe.dstRes == [2.0, 2.0, 3.0]
    assert checkpoint.state["epoch"] == 7


def test_foreign_checkpoint_takes_the_overrides_and_says_so(tmp_path, caplog):
    recipe = load_recipe(overrides=OVERRIDES)
    path = tmp_path / "foreign.ckpt"
    ms.save_checkpoint(build_network(recipe), str(path))
    with caplog.at_level(logging.WARNING):
        _, found, checkpoint = load_checkpoint_predictor(path, read_changes(None, OVERRIDES))
    assert found == recipe
    assert checkpoint.state == {}
    assert "foreign.ckpt carries no recipe" in caplog.text
    with pytest.raises(UserError, match=r"foreign.ckpt does not fit the network"):
        load_checkpoint_predictor(path, {"base_channels": 1})


@pytest.mark.parametrize(("state", "message"), [
    ({"recipe_name": "other", "recipe": {}}, "recipe 'other' is unknown"),
    ({"epoch": 3}, "recipe None is unknown"),
    ({"recipe_name": "vnet_promise12", "recipe": {"old_key": 1}}, "unknown recipe key 'old_key'"),
])
def test_unknown_recipe_names_the_checkpoint(tmp_path, state, message):
    with pytest.raises(UserError, match=message) as caught:
        recipe_of(Checkpoint(tmp_path / "x.ckpt", {}, state))
    assert "x.ckpt" in str(caught.value)


def test_wrong_network_is_refused(tmp_path):
    recipe = load_recipe(overrides=["base_channels=1"])
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, build_network(recipe), {"recipe_name": "vnet_promise12", "recipe": plain(recipe)})
    with pytest.raises(UserError, match="does not fit the network"):
        load_checkpoint_predictor(path, {"base_channels": 2})
