"""The mean of several predictors, and which checkpoints may be one ensemble."""

from pathlib import Path

import numpy as np
import pytest

from src.errors import UserError
from src.inference.ensemble import SHARED_KEYS, EnsemblePredictor, check_members
from src.inference.evaluate import require_finite
from src.overrides import load_recipe
from tests.inference.helpers import FunctionPredictor

PATHS = [Path("runs/a/ckpt/best.ckpt"), Path("runs/b/ckpt/best.ckpt"), Path("runs/c/ckpt/best.ckpt")]
IMAGE = np.random.default_rng(4).random((4, 5, 6)).astype(np.float32)


def members(*factors: float) -> list[FunctionPredictor]:
    made = []
    for path, factor in zip(PATHS, factors, strict=False):
        made.append(FunctionPredictor(lambda image, factor=factor: image * np.float32(factor)))
        made[-1].path = path
    return made


def test_mean_of_the_members():
    found = EnsemblePredictor(members(0.1, 0.2, 0.9)).predict_block(IMAGE)
    np.testing.assert_allclose(found, IMAGE * 0.4, atol=1e-6)
    assert found.dtype == np.float32
    alone = EnsemblePredictor(members(0.3)).predict_block(IMAGE)
    np.testing.assert_array_equal(alone, IMAGE * np.float32(0.3))


def test_classes_still_sum_to_one():
    def classes(first):
        return FunctionPredictor(lambda image: np.stack((image * first, image * (1 - first), 1 - image)))

    found = EnsemblePredictor([classes(0.25), classes(0.75)]).predict_block(IMAGE)
    np.testing.assert_allclose(found, np.stack((IMAGE / 2, IMAGE / 2, 1 - IMAGE)), atol=1e-6)


def test_path_is_the_folder_of_all():
    assert EnsemblePredictor(members(0.1, 0.2)).path == Path("runs").absolute()
    assert EnsemblePredictor(members(0.1)).path == PATHS[0]
    assert EnsemblePredictor([*members(0.1), FunctionPredictor(np.copy)]).path is None


def test_member_that_is_not_finite_is_named():
    ensemble = EnsemblePredictor(members(0.1, np.nan, 0.2))
    found = ensemble.predict_block(IMAGE)
    with pytest.raises(UserError, match=r"Case00: model runs/b/ckpt/best.ckpt gives .* in 120 of 120 voxels"):
        require_finite(found, "Case00", ensemble.path)


def test_no_member():
    with pytest.raises(ValueError, match="at least one member"):
        EnsemblePredictor([])


@pytest.mark.parametrize(("override", "key", "values"), [
    ("dstRes=[1,1,2]", "dstRes", r"\[1.0, 1.0, 1.5\] in the first and \[1.0, 1.0, 2.0\] in the other"),
    ("VolSize=[32,32,32]", "VolSize", r"\[128, 128, 64\] in the first and \[32, 32, 32\] in the other"),
    ("classes=3", "classes", "2 in the first and 3 in the other"),
    ("intensity_percentiles=[1,99]", "intensity_percentiles", r"\[0.0, 100.0\] in the first and \[1.0, 99.0\]"),
    ("normDir=true", "normDir", "False in the first and True in the other"),
    ("task=hippocampus", "task", "promise12 in the first and hippocampus in the other"),
    ("patches=true", "patches", "False in the first and True in the other"),
])
def test_members_have_to_see_the_same(override, key, values):
    assert key in SHARED_KEYS
    with pytest.raises(UserError, match=f"runs/a/.* and runs/c/.* recipe key '{key}' is {values}"):
        check_members(PATHS, [load_recipe(), load_recipe(), load_recipe(overrides=[override])])


def test_members_may_differ_in_all_else(caplog):
    check_members(PATHS[:2], [load_recipe(), load_recipe(overrides=["base_channels=8", "loss=dice_ce", "seed=2"])])
    assert caplog.text == ""
    check_members(PATHS[:2], [load_recipe(overrides=["tta=x", "opening=0.3"]), load_recipe(overrides=["tta=xy"])])
    assert "recipe key 'opening' is 0.3 in" in caplog.text
    assert "recipe key 'tta' is x in runs/a/ckpt/best.ckpt and xy in runs/b/ckpt/best.ckpt: taking the first" in (
        caplog.text)


def test_recipes_from_before_a_key_have_its_old_meaning():
    old = load_recipe()
    del old["classes"], old["patches"], old["tta"]
    check_members(PATHS[:2], [old, load_recipe()])
    with pytest.raises(UserError, match="'patches' is False in the first and True"):
        check_members(PATHS[:2], [old, load_recipe(overrides=["patches=true"])])
