"""Bundles of networks of pictures: shapes, the golden case, and prediction from them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import predict as predict_script
from src.checkpoint import load_checkpoint, save_checkpoint
from src.data import build_manager, get_task
from src.data.lgg import LggManager
from src.errors import UserError
from src.inference.bundle import check_golden, load_bundle_predictor, read_bundle
from src.inference.export import export_checkpoint
from src.inference.golden import generated_picture, golden_input
from src.networks import build_network
from src.overrides import load_recipe, plain
from tests.pictures import make_lgg

OVERRIDES = ["base_channels=2", "image_size=[48,32]", "output_channels=2", "tta=x"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A U-Net of three channels with random weights, beside the data that it could have been trained on."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = load_recipe("unet2d_lgg", overrides=OVERRIDES)
    names = make_lgg(folder / "data", patients=2, slices=3)
    save_checkpoint(folder / "checkpoint_unet-1_1.ckpt", build_network(recipe), {
        "recipe_name": "unet2d_lgg", "recipe": plain(recipe), "epoch": 1, "validation_names": names[1:]})
    return folder


@pytest.fixture(scope="module")
def exported(trained):
    return read_bundle(export_checkpoint(trained / "checkpoint_unet-1_1.ckpt", str(trained / "unet"),
                                         ("MINDIR", "ONNX"), batch_size=2))


def test_recipe_says_what_the_model_takes_and_gives(exported):
    content = exported.content
    assert content["format_version"] == 3
    assert content["preprocessing"] == {"task": "lgg", "image_size": [48, 32], "classes": 2}
    assert content["postprocessing"] == {"mirrors": "x", "threshold": 0.5, "largest_component": True,
                                         "connectivity": "faces"}
    for kind, bound in (("MINDIR", 1e-5), ("ONNX", 1e-4)):
        model = content["models"][kind]
        assert (model["input"]["shape"], model["input"]["layout"]) == ([2, 3, 32, 48], "NCHW")
        assert (model["output"]["shape"], model["output"]["layout"]) == ([2, 32, 48], "NHW")
        assert model["max_difference"] <= bound
    assert isinstance(exported.manager, LggManager)
    assert exported.manager.image_size == (48, 32)


def test_pictures_have_one_size(trained):
    with pytest.raises(UserError, match="task lgg, whose pictures are always brought to image_size; --dynamic_shape"):
        export_checkpoint(trained / "checkpoint_unet-1_1.ckpt", str(trained / "other"), dynamic_shape=True)
    assert not list(trained.glob("other*"))


def test_golden_case_is_a_generated_picture_and_says_so(exported):
    assert exported.content["golden"]["case_id"] == "generated"
    assert "no image of anything" in exported.content["golden"]["source"]
    batch, expected = exported.golden()
    np.testing.assert_array_equal(batch, np.stack([generated_picture(3, (48, 32))] * 2))
    assert 0 < expected.min() < expected.max() < 1
    predictor, bundle = load_bundle_predictor(exported.folder)
    assert check_golden(predictor, bundle) <= 1e-5


def test_generated_picture():
    picture = generated_picture(3, (48, 32))
    assert (picture.shape, picture.dtype) == ((3, 32, 48), np.float32)
    np.testing.assert_allclose(picture.mean((1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(picture.std((1, 2)), 1, atol=1e-5)
    # Neighbours are alike, as in an image, and the channels are not.
    assert np.corrcoef(picture[:, :, 1:].ravel(), picture[:, :, :-1].ravel())[0, 1] > 0.9
    assert abs(np.corrcoef(picture.reshape(3, -1))[0, 1]) < 0.5
    np.testing.assert_array_equal(picture, generated_picture(3, (48, 32)))


def test_real_case_is_the_middle_slice_of_a_validation_case(trained, caplog):
    recipe = load_recipe("unet2d_lgg", overrides=OVERRIDES)
    manager = build_manager(recipe)
    checkpoint = load_checkpoint(trained / "checkpoint_unet-1_1.ckpt")
    golden = golden_input(checkpoint, recipe, manager, trained / "data")
    assert (golden.case_id, golden.source) == ("TCGA_XX_0002_20000101", "the data folder given to export")
    assert "will hold the preprocessed image of TCGA_XX_0002_20000101" in caplog.text
    (case,) = get_task("lgg").find_cases(trained / "data", ["TCGA_XX_0002_20000101"])
    image = manager.load(case).image
    np.testing.assert_array_equal(golden.array, image[..., image.shape[3] // 2].transpose(0, 2, 1))


def test_onnx_of_transposed_convolutions_is_valid(exported):
    model = onnx.load(exported.folder / "model.onnx")
    shapes = [list(attribute.ints) for node in model.graph.node if node.op_type == "ConvTranspose"
              for attribute in node.attribute if attribute.name == "output_shape"]
    assert shapes == [[4, 6], [8, 12], [16, 24], [32, 48]]  # (H, W), not with N and C before them
    onnx.checker.check_model(model, full_check=True)


def test_prediction_from_the_bundle_is_that_of_the_checkpoint(exported, trained, tmp_path):
    patient = trained / "data" / "TCGA_XX_0001_20000101"
    for option, path in (("--bundle", exported.folder), ("--ckpt_path", trained / "checkpoint_unet-1_1.ckpt")):
        assert predict_script.main([option, str(path), "--input", str(patient), "--output",
                                    str(tmp_path / option)]) == 0
    masks, others = ([np.asarray(Image.open(tmp_path / option / patient.name / f"{patient.name}_{k}_mask.tif"))
                      for k in (1, 2, 3)] for option in ("--bundle", "--ckpt_path"))
    assert np.mean(np.array(masks) != np.array(others)) < 1e-3


def test_without_a_name_the_files_are_called_as_the_network(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export_checkpoint(trained / "checkpoint_unet-1_1.ckpt") == Path("unet_bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["unet.mindir", "unet_bundle"]
    (tmp_path / "unet.mindir").unlink()
    (tmp_path / "unet.mindir").mkdir()
    with pytest.raises(UserError, match="unet.mindir: is a folder"):
        export_checkpoint(trained / "checkpoint_unet-1_1.ckpt")
