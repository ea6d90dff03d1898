"""EM slices as pairs of pictures and as TIFF stacks."""

import numpy as np
import pytest
from PIL import Image

from src.data import em
from src.data.case import Case
from src.data.check import checked_cases
from src.data.em import EmManager
from src.data.split import read_split, write_split
from src.errors import DataError, UserError
from tests.pictures import make_em


def test_pairs_and_stacks_hold_the_same(tmp_path):
    pairs = make_em(tmp_path / "pairs", slices=3)
    stack = make_em(tmp_path / "stack", slices=3, stack=True)
    assert em.all_names(tmp_path / "pairs") == pairs == ["00.png", "01.png", "02.png"]
    assert em.all_names(tmp_path / "stack") == stack == [f"train-volume.tif:{page:02d}" for page in range(3)]
    manager = EmManager((48, 48))
    singles, pages = em.find_cases(tmp_path / "pairs", pairs), em.find_cases(tmp_path / "stack", stack)
    for one, two in zip(singles, pages, strict=True):
        assert (one.page, two.page, two.case_id) == (None, int(one.case_id), f"train-volume_{one.case_id}")
        first, second = manager.load(one), manager.load(two)
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.label, second.label)
    write_split(tmp_path / "train.csv", stack)
    assert read_split(tmp_path / "train.csv") == stack


def test_each_slice_is_normalised_by_itself(tmp_path):
    make_em(tmp_path)
    manager = EmManager((48, 48))
    for case in em.find_cases(tmp_path, ["01.png", "03.png"]):
        shown, label, _, block, _ = manager.read_preprocessed(case)
        values = shown.astype(np.float64)
        np.testing.assert_allclose(block[0], (values - values.mean()) / values.std(), atol=1e-5)
        assert block[0][label == 1].mean() > 0 > block[0][label == 0].mean()  # cells are bright, and class 1


def test_pictures_win_over_a_stack_beside_them(tmp_path, caplog):
    make_em(tmp_path, slices=2)
    make_em(tmp_path, slices=2, stack=True)
    assert em.all_names(tmp_path) == ["00.png", "01.png"]
    assert "train-volume.tif is left alone" in caplog.records[0].getMessage()


def test_folders_that_are_none(tmp_path):
    make_em(tmp_path / "data")
    with pytest.raises(UserError, match="has neither image/ nor train-volume.tif in it; give .*/data"):
        em.all_names(tmp_path)
    with pytest.raises(UserError, match="is not there"):
        em.all_names(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not there"):
        em.scan_cases(tmp_path / "nowhere", ["train-volume.tif:00"])


def test_all_damage_of_pairs_is_listed_at_once(tmp_path):
    names = make_em(tmp_path)
    (tmp_path / "label/00.png").unlink()
    Image.fromarray(np.zeros((48, 40), np.uint8)).save(tmp_path / "label/01.png")
    Image.fromarray(np.arange(48 * 48).reshape(48, 48).astype(np.uint8)).save(tmp_path / "label/02.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 48, 3), np.uint8)).save(tmp_path / "image/03.png")
    (tmp_path / "image/04.png").write_bytes((tmp_path / "image/04.png").read_bytes()[:100])
    with pytest.raises(DataError) as caught:
        checked_cases(em, tmp_path, [*names, "09.png", "00.png"], EmManager((48, 48)))
    expected = [("00: ground truth", "missing"), ("01: ", "the mask has 40 x 48 pixels, its picture 48 x 48"),
                ("02: ", "mask values are {0, 1, 2, 3, 4, 5, …}"), ("03: ", "in colours, expected grey"),
                ("04: ", "cannot be read as a picture"), ("09: image", "missing"), ("09: ground truth", "missing"),
                ("00: named twice", "")]
    for start, words in expected:
        assert any(problem.startswith(start) and words in problem for problem in caught.value.problems), (start, words)
    assert len(caught.value.problems) == len(expected), caught.value.problems


def test_all_damage_of_stacks_is_listed_at_once(tmp_path):
    make_em(tmp_path, slices=3, stack=True)
    pages = [Image.new("L", (48, 48))] * 2
    pages[0].save(tmp_path / "train-labels.tif", save_all=True, append_images=pages[1:])  # one page short
    (tmp_path / "other-volume.tif").write_bytes(b"damaged")
    names = ["train-volume.tif:02", "train-volume.tif:03", "train-volume.tif:1", "train-volume.tif:01",
             "other-volume.tif:00", "third.tif:00"]
    cases, problems = em.scan_cases(tmp_path, names)
    assert [case.case_id for case in cases] == ["train-volume_01"]
    expected = [("train-volume_02: ", "train-labels.tif: no page 2, the last of 2 pages is 1"),
                ("train-volume_03: ", "train-volume.tif: no page 3, the last of 3"),
                ("train-volume_03: ", "train-labels.tif: no page 3"), ("train-volume_01: named twice", ""),
                ("other-volume_00: ", "cannot be read"), ("other-volume_00: stack of labels", "other-labels.tif"),
                ("third_00: stack ", "third.tif is missing"), ("third_00: stack of labels", "third-labels.tif")]
    for start, words in expected:
        assert any(problem.startswith(start) and words in problem for problem in problems), (start, words, problems)
    assert len(problems) == len(expected), problems
    (tmp_path / "train-labels.tif").unlink()
    assert em.find_cases(tmp_path, names[:1], need_labels=False) == [
        Case("train-volume_02", tmp_path / "train-volume.tif", None, page=2)]


def test_inputs(tmp_path, caplog):
    make_em(tmp_path / "pairs", slices=2)
    make_em(tmp_path / "stack", slices=2, stack=True)
    expected = [Case(name, tmp_path / f"pairs/image/{name}.png") for name in ("00", "01")]
    assert em.find_inputs(tmp_path / "pairs") == em.find_inputs(tmp_path / "pairs/image") == (expected, [])
    assert em.find_inputs(tmp_path / "pairs/image/01.png") == (expected[1:], [])
    stack = tmp_path / "stack/train-volume.tif"
    pages = [Case(f"train-volume_{page:02d}", stack, page=page) for page in range(2)]
    assert em.find_inputs(stack) == (pages, []) and not caplog.records
    assert em.find_inputs(tmp_path / "stack") == (pages, [])
    assert "left alone" in caplog.records[0].getMessage() and "train-labels.tif" in caplog.records[0].getMessage()
    (tmp_path / "stack/bad.tif").write_bytes(b"bad")
    cases, problems = em.find_inputs(tmp_path / "stack")
    assert cases == pages and problems[0].startswith("bad: ") and len(problems) == 1
    with pytest.raises(UserError, match="no picture, expected one of .tif"):
        (tmp_path / "a.txt").touch()
        em.find_inputs(tmp_path / "a.txt")
    with pytest.raises(UserError, match="no such file or folder"):
        em.find_inputs(tmp_path / "nowhere")
