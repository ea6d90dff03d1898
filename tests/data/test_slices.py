"""What the 2-D data sets share: samples a slice, their weights, words of the check."""

import logging

import numpy as np
import pytest

from src.data import build_manager, drive, get_task, guess_task, lgg
from src.data.check import check_cases
from src.data.data_manager import Sample
from src.data.geometry import Geometry
from src.data.slices import slice_samples, slice_weights
from src.overrides import load_recipe
from tests.pictures import make_drive, make_em, make_lgg

RECIPES = {"lgg": "unet2d_lgg", "drive": "unet2d_drive", "em": "unet2d_em"}


def sample(name: str, areas: list[int], first: int = 0) -> Sample:
    """Make a case of 4 x 5 pixels whose slices have masks of the given areas."""
    label = np.zeros((4, 5, len(areas)), np.uint8)
    for number, area in enumerate(areas):
        label[..., number].reshape(-1)[:area] = 1
    image = np.arange(2 * 4 * 5 * len(areas), dtype=np.float32).reshape(2, 4, 5, len(areas))
    grid = Geometry((4, 5, len(areas)), origin=(0, 0, first))
    return Sample(name, image, label, grid, Geometry((4, 5, len(areas) + first)))


def test_a_sample_for_each_slice():
    samples = slice_samples([sample("a", [3, 0]), sample("b", [1], first=2)])
    assert [one.case_id for one in samples] == ["a:1", "a:2", "b:3"]
    source = sample("a", [3, 0])
    for number, one in enumerate(samples[:2]):
        assert (one.image.shape, one.label.shape) == ((2, 5, 4), (5, 4))
        for x, y in ((0, 0), (3, 1), (2, 4)):
            assert one.image[1, y, x] == source.image[1, x, y, number]
            assert one.label[y, x] == source.label[x, y, number]
        assert one.block.size == one.native.size == (4, 5, 1)
    assert [one.foreground_ml for one in samples] == pytest.approx([0.003, 0, 0.001])


def test_weights_by_hand():
    """Two patients of one half each: one of areas 6, 2, 0, 0, the other without a mask."""
    samples = slice_samples([sample("a", [6, 2, 0, 0]), sample("b", [0, 0])])
    assert slice_weights(samples, "uniform") is None
    weights = slice_weights(samples, "mask")
    # (6 + 0.1 * 8 / 4) / (1.1 * 8) = 6.2 / 8.8, and so on
    np.testing.assert_allclose(weights, np.array([6.2 / 8.8, 2.2 / 8.8, 0.2 / 8.8, 0.2 / 8.8, 0.5, 0.5]) / 2)
    # The order of the samples is of no account, nor is a colon in a patient's name.
    np.testing.assert_allclose(slice_weights(samples[::-1], "mask"), weights[::-1])
    paged = slice_samples([sample("v.tif:01", [1]), sample("v.tif:02", [9])])
    np.testing.assert_allclose(slice_weights(paged, "mask"), [0.5, 0.5])


@pytest.fixture(params=["lgg", "drive", "em"])
def folder(request, tmp_path):
    {"lgg": make_lgg, "drive": make_drive, "em": make_em}[request.param](tmp_path)
    return request.param, tmp_path


def test_the_network_sees_what_the_recipe_says(folder):
    task, path = folder
    recipe = load_recipe(RECIPES[task], overrides=["image_size=[32,48]"])
    assert guess_task(path) == task
    manager, module = build_manager(recipe), get_task(task)
    cases = module.find_cases(path, module.all_names(path))
    for case in cases:
        one = manager.load(case)
        depth = one.native.size[2]
        assert one.image.shape == (module.CHANNELS, 32, 48, depth) and manager.channels == module.CHANNELS
        assert one.label.shape == (32, 48, depth)
        assert (one.image.dtype, one.label.dtype) == (np.float32, np.uint8)
        assert one.block.size == (32, 48, depth) and one.native.spacing == (1, 1, 1)
        assert all(part.image.flags.c_contiguous for part in slice_samples([one]))
        again = manager.load_label(case)
        np.testing.assert_array_equal(again.label, one.label)


def test_masks_come_back_in_their_place(folder, tmp_path):
    """The label as the network sees it, pasted back, is the label but for borders; written, it can be read again."""
    task, path = folder
    recipe = load_recipe(RECIPES[task], overrides=["image_size=[64,64]"])
    manager, module = build_manager(recipe), get_task(task)
    case = module.find_cases(path, module.all_names(path))[0]
    shown, label, native, block, grid = manager.read_preprocessed(case)
    one = manager.load(case)
    np.testing.assert_array_equal(one.image, block)
    assert shown.shape == label.shape == native.size
    back = manager.paste_back(one.label.astype(np.float32), grid, native) >= 0.5
    assert 2 * (back & (label > 0)).sum() / (back.sum() + label.sum()) > 0.9
    region = manager.region(case)
    assert (region is not None) == (task == "drive") and (region is None or region.shape == native.size)
    paths = manager.write_mask(tmp_path / "out", case, label, native)
    assert paths == manager.mask_paths(tmp_path / "out", case) and all(file.is_file() for file in paths)
    assert len(paths) == native.size[2]


def test_the_check_speaks_of_pixels(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    make_lgg(tmp_path / "lgg", patients=1)
    make_drive(tmp_path / "drive", training=1, test=0)
    for task, module in (("lgg", lgg), ("drive", drive)):
        manager = build_manager(load_recipe(RECIPES[task]))
        assert check_cases(module.find_cases(tmp_path / task, module.all_names(tmp_path / task)), manager) == []
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("TCGA_XX_0001_20000101: 4 slices of 48 x 48 pixels, foreground ")
    assert second.startswith("21_training: 60 x 64 pixels, foreground ")
    assert second.endswith(" % of what the network sees")
