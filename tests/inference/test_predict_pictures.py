"""Prediction of pictures and patients without labels: names, sizes, and what is never overwritten."""

import shutil

import numpy as np
import pytest
from PIL import Image

from src.data import build_manager
from src.errors import DataError, UserError
from src.inference.postprocess import Postprocess
from src.inference.volumes import predict_volumes
from src.overrides import load_recipe, plain
from tests.inference.helpers import FunctionPredictor
from tests.pictures import make_drive, make_em, make_lgg


def predict(name, source, output, threshold=0.0, channel=0):
    recipe = load_recipe(name, overrides=["image_size=[48,48]"])
    bright = FunctionPredictor(lambda image: np.where(image[channel] > threshold, 0.9, 0.2))
    return predict_volumes(bright, build_manager(recipe), source, output, plain(recipe), "a test",
                           Postprocess.from_recipe(recipe))


def names(paths, folder):
    return [str(path.relative_to(folder)) for path in paths]


def test_a_folder_of_patients_and_one_alone(tmp_path, caplog):
    caplog.set_level("INFO")
    first, second = make_lgg(tmp_path / "in", patients=2, slices=3)
    for mask in (tmp_path / "in" / second).glob("*_mask.tif"):
        mask.unlink()  # of patients to predict there are none
    written = predict("unet2d_lgg", tmp_path / "in", tmp_path / "out", 1.5, channel=1)
    assert names(written, tmp_path / "out") == [f"{patient}/{patient}_{k}_mask.tif" for patient in (first, second)
                                                for k in (1, 2, 3)]
    found, true = (np.stack([np.asarray(Image.open(folder / first / f"{first}_{k}_mask.tif")) for k in (1, 2, 3)]) > 0
                   for folder in (tmp_path / "out", tmp_path / "in"))
    assert 2 * np.count_nonzero(found & true) / (found.sum() + true.sum()) > 0.8
    share = 100 * np.count_nonzero(found) / found.size
    assert f"{first} (1 of 2): " in caplog.text
    assert f"foreground {share:.1f} % of the pixels -> {tmp_path}/out/{first}" in caplog.text
    assert (tmp_path / "out" / "report.html").read_text().count("<figure") == 2
    alone = predict("unet2d_lgg", tmp_path / "in" / first, tmp_path / "alone", 1.5, channel=1)
    assert names(alone, tmp_path / "alone") == names(written, tmp_path / "out")[:3]
    assert alone[0].read_bytes() == written[0].read_bytes()


@pytest.mark.parametrize("source", ["in", "in/TCGA_XX_0001_20000101"])
def test_a_patients_own_masks_are_never_overwritten(tmp_path, source):
    (patient,) = make_lgg(tmp_path / "in", patients=1, slices=2)
    before = {path: path.read_bytes() for path in (tmp_path / "in" / patient).iterdir()}
    with pytest.raises(UserError, match="--output .*in: is the folder of the inputs"):
        predict("unet2d_lgg", tmp_path / source, tmp_path / "in")
    assert {path: path.read_bytes() for path in (tmp_path / "in" / patient).iterdir()} == before


def test_pictures_of_the_retina(tmp_path, caplog):
    make_drive(tmp_path / "data", training=1, test=2)
    written = predict("unet2d_drive", tmp_path / "data" / "test" / "images", tmp_path / "out")
    assert names(written, tmp_path / "out") == ["01_test_test.png", "02_test_test.png"]
    field = np.asarray(Image.open(tmp_path / "data/test/mask/01_test_mask.gif").convert("L")) > 0
    mask = np.asarray(Image.open(written[0])) > 0
    assert mask.shape == field.shape == (64, 60)
    assert 0.3 < mask[field].mean() < 1 and not mask[~field].any()
    # A picture that lies alone: where it is dark nothing is predicted.
    shutil.copy(tmp_path / "data" / "test" / "images" / "01_test.tif", tmp_path / "lone.tif")
    (lone,) = predict("unet2d_drive", tmp_path / "lone.tif", tmp_path / "out")
    assert "no field of view" in caplog.text
    assert np.mean((np.asarray(Image.open(lone)) > 0) != mask) < 0.02


def test_pages_of_a_stack_and_a_label_among_pictures(tmp_path):
    make_em(tmp_path / "stack", slices=2, stack=True)
    written = predict("unet2d_em", tmp_path / "stack" / "train-volume.tif", tmp_path / "out")
    assert names(written, tmp_path / "out") == ["train-volume_00_test.png", "train-volume_01_test.png"]
    make_em(tmp_path / "pairs", slices=2)
    shutil.copy(tmp_path / "pairs" / "label" / "00.png", tmp_path / "pairs" / "image" / "label.png")
    with pytest.raises(DataError, match="label.png: holds 2 different values only") as caught:
        predict("unet2d_em", tmp_path / "pairs", tmp_path / "from pairs")
    assert len(caught.value.problems) == 1
    assert sorted(path.name for path in (tmp_path / "from pairs").iterdir()) == ["00_test.png", "01_test.png",
                                                                               "report.html"]
