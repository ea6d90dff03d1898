"""A checkpoint of the 3-D U-Net: predicts from volumes of four channels, and is refused by what knows one only."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from src.checkpoint import save_checkpoint
from src.data import build_manager
from src.errors import UserError
from src.inference.export import export_checkpoint
from src.inference.predictor import load_checkpoint_predictor
from src.inference.volumes import predict_volumes
from src.networks import build_network
from src.overrides import load_recipe, plain
from tests.data.test_brain_tumour import SIZE, SPACING, make_image, write_nifti


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    recipe = load_recipe("unet3d_brain")
    path = tmp_path / "checkpoint_vnet-1_1.ckpt"
    save_checkpoint(path, build_network(recipe), {"recipe_name": "unet3d_brain", "recipe": plain(recipe), "epoch": 1})
    return path


def test_prediction_has_the_grid_of_the_image(checkpoint, tmp_path, kernels_in_use):
    write_nifti(tmp_path / "in/BRATS_001.nii.gz", make_image())
    predictor, recipe, _ = load_checkpoint_predictor(checkpoint)
    (mask,) = predict_volumes(predictor, build_manager(recipe), tmp_path / "in", tmp_path / "out", plain(recipe),
                              "test")
    image = sitk.ReadImage(str(mask))
    assert image.GetSize() == SIZE
    assert image.GetSpacing() == pytest.approx(SPACING)
    assert set(np.unique(sitk.GetArrayFromImage(image))) <= {0, 1}


def test_export_is_refused(checkpoint, tmp_path):
    with pytest.raises(UserError, match="checkpoint of task brain_tumour.*predict with --ckpt_path"):
        export_checkpoint(checkpoint, str(tmp_path / "unet"), ("MINDIR",))
    assert not list(tmp_path.glob("unet*"))
