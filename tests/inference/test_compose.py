"""From checkpoints to what predicts: windows, mirrored copies, ensembles, precision."""

import logging
import shutil

import numpy as np
import pytest
from mindspore import Tensor

from src.data import Case, build_manager
from src.errors import UserError
from src.inference.compose import load_predictor, wrap_predictor
from src.inference.evaluate import load_native, segment
from src.inference.golden import SAMPLE_DATA
from src.inference.predictor import NetworkPredictor
from src.inference.tta import MirrorPredictor
from src.overrides import load_recipe
from tests.inference.helpers import FunctionPredictor

VOLUME = np.random.default_rng(6).random((32, 16, 16)).astype(np.float32)
RAMP = np.linspace(0, 1, 16, dtype=np.float32)  # along z


def patch_recipe(*overrides: str):
    return load_recipe(overrides=["patches=true", "VolSize=[16,16,16]", *overrides])


def answers_to(recipe, mirrored: bool = False) -> tuple[np.ndarray, int]:
    """Return the answer to `VOLUME` of a predictor that depends on z, and how often it was called."""
    inner = FunctionPredictor(lambda image: image * RAMP)
    return wrap_predictor(inner, recipe, mirrored).predict_block(VOLUME), len(inner.blocks)


def test_window_overlap_decides_on_the_windows():
    assert answers_to(patch_recipe("window_overlap=0"))[1] == 2
    assert answers_to(patch_recipe())[1] == 3
    assert answers_to(patch_recipe("window_overlap=0.75"))[1] == 5


def test_without_patches_there_are_no_windows():
    inner = FunctionPredictor(np.copy)
    assert wrap_predictor(inner, load_recipe()) is inner
    assert wrap_predictor(inner, load_recipe("unet3d_brain"), mirrored=True) is inner


def test_tta_averages_mirrored_windows_where_it_is_asked_for():
    plain, _ = answers_to(patch_recipe())
    np.testing.assert_allclose(plain, VOLUME * RAMP, atol=1e-6)
    found, calls = answers_to(patch_recipe("tta=xz"), mirrored=True)
    np.testing.assert_allclose(found, VOLUME / 2, atol=1e-6)  # the mean of the ramp and its mirror image
    assert calls == 3 * 4
    # Validation during training leaves it out.
    found, calls = answers_to(patch_recipe("tta=xz"))
    np.testing.assert_array_equal(found, plain)
    assert calls == 3


def test_one_checkpoint_is_its_network(checkpoint_path):
    predictor, recipe, checkpoints = load_predictor([checkpoint_path])
    assert isinstance(predictor, NetworkPredictor)
    assert predictor.path == checkpoint_path
    assert recipe.base_channels == 2
    assert checkpoints[0].state["epoch"] == 7
    assert checkpoints[0].parameters == {}
    assert isinstance(load_predictor([checkpoint_path], {"tta": "x"})[0], MirrorPredictor)


def test_several_checkpoints_are_the_mean_of_their_networks(checkpoint_path, predictor, tmp_path):
    second = shutil.copyfile(checkpoint_path, tmp_path / "second.ckpt")
    ensemble, recipe, checkpoints = load_predictor([checkpoint_path, second])
    assert [checkpoint.path for checkpoint in checkpoints] == [checkpoint_path, second]
    last = ensemble.predictors[1].network.output.last.conv.bias
    last.set_data(Tensor(last.asnumpy() + np.float32([0.5, -0.5])))
    image = np.random.default_rng(0).normal(size=(32, 32, 32)).astype(np.float32)
    first = predictor.predict_block(image).astype(float)
    shifted = 1 / (1 + (1 - first) / first * np.e)  # logits 1 apart from what they were
    np.testing.assert_allclose(ensemble.predict_block(image), (first + shifted) / 2, atol=5e-5)


def test_checkpoints_of_two_kinds_are_no_ensemble(checkpoint_path, classes_checkpoint_path):
    with pytest.raises(UserError, match=r"checkpoint_vnet-7_3.ckpt and .*checkpoint_vnet-2_5.ckpt cannot be one "
                                        r"ensemble: recipe key 'task' is promise12 in the first and hippocampus"):
        load_predictor([checkpoint_path, classes_checkpoint_path])


def test_bf16_is_what_the_network_computes_with(checkpoint_path, kernels_in_use, caplog):
    caplog.set_level(logging.INFO)
    image = np.random.default_rng(0).normal(size=(32, 32, 32)).astype(np.float32)
    fp32 = load_predictor([checkpoint_path])[0].predict_block(image)
    assert "bf16" not in caplog.text
    bf16 = load_predictor([checkpoint_path], {"amp_level": "bf16"})[0].predict_block(image)
    assert "activations are stored in bf16" in caplog.text
    difference = np.abs(fp32 - bf16).max()
    assert 1e-4 < difference < 5e-2  # 8 bits of mantissa; in fp32 two ways to compute it are some 1e-6 apart


@pytest.mark.parametrize(("level", "message"), [
    ("bf16", "bf16 needs the CPU kernels, which are not in use: predicting in fp32"),
    ("O2", "amp_level O2 acts in training alone: predicting in fp32"),
])
def test_precision_without_effect_is_said(checkpoint_path, level, message, caplog):
    load_predictor([checkpoint_path], {"amp_level": level})
    assert message in caplog.text


def test_three_classes_by_windows_on_a_real_case(classes_checkpoint_path):
    predictor, recipe, _ = load_predictor([classes_checkpoint_path])
    manager = build_manager(recipe)
    case = load_native(Case("Case00", SAMPLE_DATA / "img" / "Case00.mhd"), manager)
    assert max(case.block_image.shape) > 16
    probability = predictor.predict_block(case.block_image)
    assert probability.shape == (3, *case.block_image.shape)
    np.testing.assert_allclose(probability.sum(axis=0), 1, atol=1e-5)
    mask = segment(predictor, manager, case)
    assert mask.shape == case.native.size
    assert mask.dtype == np.uint8
    assert mask.max() <= 2
