"""From files to rows, with predictors whose answer is known."""

from pathlib import Path

import numpy as np
import pytest

from src import collectives
from src.backend import Backend
from src.data import Case
from src.data.data_manager import DataManager
from src.data.geometry import Geometry
from src.errors import DataError, UserError
from src.inference.evaluate import ValidationSet, evaluate_cases, load_native, predict_native, segment
from src.inference.postprocess import Postprocess
from src.inference.sliding_window import WindowPredictor
from src.metrics.promise12 import region_metrics
from tests.data.helpers import write_case
from tests.inference.helpers import (
    GRID,
    MANAGER,
    THREE_CLASSES,
    FunctionPredictor,
    bright,
    bright_case,
    bright_halves,
    bright_volume,
    not_a_number,
    nothing,
)

LARGE = Geometry((70, 56, 44), (1.0, 1.25, 1.5), (-12.5, 3.25, 40.0))


@pytest.fixture
def cases(tmp_path):
    return [bright_case(tmp_path, "Case00"), bright_case(tmp_path, "Case01", (5, 6, 7))]


def test_block_is_what_the_data_manager_makes(cases):
    predictor = nothing()
    evaluate_cases(predictor, MANAGER, cases)
    assert len(predictor.blocks) == 2
    np.testing.assert_array_equal(predictor.blocks[0], MANAGER.load(cases[0]).image)


def test_rows_and_callback(cases):
    seen = []
    rows = evaluate_cases(bright(), MANAGER, cases, lambda *details: seen.append(details))
    assert [row["case_id"] for row in rows] == ["Case00", "Case01"]
    # 8 x 9 x 10 mm radii hold 4/3 pi 720 mm^3 = 3.016 ml; a voxel is 1.875 mm^3.
    assert rows[0]["volume_ml_reference"] == pytest.approx(3.016, rel=0.02)
    assert all(row["dice"] > 0.9 for row in rows)
    case, image, mask, reference, grid = seen[0]
    assert case is cases[0]
    assert image.max() == 1000
    assert image.shape == mask.shape == reference.shape == GRID.size
    assert mask.dtype == np.uint8
    assert grid.differences(GRID) == []
    overlap = 2 * np.sum(mask & reference) / (mask.sum() + reference.sum())
    assert rows[0]["dice"] == pytest.approx(overlap, abs=1e-12)


def test_empty_prediction_is_scored_not_raised(cases):
    row = evaluate_cases(nothing(), MANAGER, cases[:1])[0]
    assert (row["dice"], row["flag"]) == (0.0, "empty prediction")
    assert row["hausdorff"] == pytest.approx(np.linalg.norm([30, 28 * 1.25, 20 * 1.5]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_probability_that_is_not_finite_is_no_empty_mask(cases, bad):
    def one_bad_voxel(image):
        answer = np.zeros_like(image)
        answer[3, 4, 5] = bad
        return answer

    predictor = FunctionPredictor(one_bad_voxel)
    with pytest.raises(UserError, match=r"Case00: the network .* not finite in 1 of 32768 voxels.* larger batch_size"):
        ValidationSet(MANAGER, cases).run(predictor)
    predictor.path = Path("run/best.ckpt")
    with pytest.raises(UserError, match=r"Case00: model run/best.ckpt gives .* use another checkpoint"):
        evaluate_cases(predictor, MANAGER, cases)


def test_every_bad_voxel_is_counted(cases):
    with pytest.raises(UserError, match="not finite in 700 of 32768 voxels"):
        segment(not_a_number(700), MANAGER, load_native(cases[0], MANAGER))


def test_outside_the_block_is_background(cases):
    everything = FunctionPredictor(np.ones_like)
    mask = segment(everything, MANAGER, load_native(cases[0], MANAGER))
    assert mask.mean() == 1  # the block of 48 mm covers the volume of 30 x 35 x 30 mm
    small = type(MANAGER)((1.5, 1.5, 1.5), (16, 16, 16))
    mask = segment(everything, small, load_native(cases[0], small))
    # 16 x 1.5 = 24 mm along each axis, within the outermost half voxels that interpolation fades over.
    assert 22 <= np.count_nonzero(mask.any(axis=(1, 2))) <= 25
    assert mask[0].sum() == mask[:, 0].sum() == mask[:, :, 0].sum() == 0


def test_postprocess_is_applied(cases):
    def two_boxes(image):
        answer = np.zeros_like(image)
        answer[8:12, 8:12, 8:12] = 0.9
        answer[16:24, 16:24, 16:24] = 0.6
        return answer

    loaded = load_native(cases[0], MANAGER)
    both = segment(FunctionPredictor(two_boxes), MANAGER, loaded, Postprocess(largest_component=False))
    large = segment(FunctionPredictor(two_boxes), MANAGER, loaded)
    bright_only = segment(FunctionPredictor(two_boxes), MANAGER, loaded, Postprocess(threshold=0.7))
    assert 0 < bright_only.sum() < large.sum() < both.sum()
    assert not (bright_only & large).any()


def test_validation_set(cases, monkeypatch):
    validation = ValidationSet(MANAGER, cases)
    monkeypatch.setattr("src.data.data_manager.read_case", None)  # everything was read already
    result = validation.run(bright())
    rows = {"Case00": result.per_case["Case00"], "Case01": result.per_case["Case01"]}
    assert result.mean_dice == pytest.approx(sum(rows.values()) / 2)
    assert min(rows.values()) > 0.9
    assert result.overlay.dtype == np.uint8
    assert result.overlay.ndim == 3
    assert result.overlay.shape[2] == 3
    assert result.overlay.std() > 10
    assert validation.run(nothing()).mean_dice == 0.0


def test_validation_agrees_with_evaluation(cases):
    rows = evaluate_cases(bright(), MANAGER, cases)
    result = ValidationSet(MANAGER, cases).run(bright())
    assert result.per_case == {row["case_id"]: row["dice"] for row in rows}


def test_ranks_share_the_cases_and_give_the_same_rows(cases, tmp_path, monkeypatch):
    """Both ranks in one process: what each would send is kept, and handed to both."""
    cases = [*cases, bright_case(tmp_path, "Case02", (6, 6, 6))]
    expected = evaluate_cases(bright(), MANAGER, cases)
    sent = {}
    monkeypatch.setattr(collectives, "gather", lambda backend, value: sent.setdefault(backend.rank, [value]))
    ranks = [Backend("CPU", rank=rank, world_size=2) for rank in range(2)]
    assert evaluate_cases(bright(), MANAGER, cases, backend=ranks[0]) == [expected[0], expected[2]]
    assert evaluate_cases(bright(), MANAGER, cases, backend=ranks[1]) == [expected[1]]
    monkeypatch.setattr(collectives, "gather", lambda backend, value: [sent[0][0], sent[1][0]])
    for backend in ranks:
        assert evaluate_cases(bright(), MANAGER, cases, backend=backend) == expected

    validations = [ValidationSet(MANAGER, cases, backend) for backend in ranks]
    assert [[case.case_id for case in validation.cases] for validation in validations] == [["Case00", "Case02"],
                                                                                           ["Case01"]]
    assert [[case.image is not None for case in validation.cases] for validation in validations] == [[True, False],
                                                                                                     [False]]


def test_further_looks_are_at_what_the_one_before_found(tmp_path):
    """Off its centre and eight times as large as asked for: the last block has it in its middle, at half the size."""
    image, label = bright_volume(LARGE, (16, 15, 14))
    image, label = (np.roll(array, (14, -12, 8), axis=(0, 1, 2)) for array in (image, label))
    case = write_case(tmp_path, "Case00", image, label, LARGE)
    asked = 4 / 3 * np.pi * 16 * 15 * 14 / 8 / 1000
    manager = DataManager((1.5, 1.5, 1.5), (32, 32, 32), zoom_ml=asked)
    predictor = bright()
    (row,) = evaluate_cases(predictor, manager, [case])
    first, second, third = predictor.blocks
    np.testing.assert_array_equal(first, manager.load(case).image)
    for block in (second, third):
        assert np.argwhere(block > 1).mean(axis=0) == pytest.approx([15.5] * 3, abs=0.7)
    # What is brighter than 1 differs by look, since each has a z-score of its own.
    assert np.count_nonzero(third > 1) * 1.5**3 / 1000 == pytest.approx(asked, rel=0.15)
    (once,) = evaluate_cases(bright(), DataManager((1.5, 1.5, 1.5), (32, 32, 32)), [case])
    assert once["dice"] < 0.9 < row["dice"], "the centre block does not hold all of it"
    assert ValidationSet(manager, [case]).run(bright()).per_case == {"Case00": row["dice"]}


def test_looks_are_averaged_and_an_empty_one_is_the_last(cases):
    manager = DataManager((1.5, 1.5, 1.5), (32, 32, 32), zoom_ml=1.0)
    loaded = load_native(cases[0], manager)

    def middle(probability):
        def answer(image):
            block = np.zeros_like(image)
            block[12:20, 12:20, 12:20] = probability
            return block
        return answer

    def mean_of(*functions):
        left = list(functions)
        predictor = FunctionPredictor(lambda image: left.pop(0)(image))
        probability = predict_native(predictor, manager, loaded)
        return probability[15, 14, 10], len(predictor.blocks)

    def never(image):
        raise AssertionError("one look too many")

    assert mean_of(middle(1.0), middle(0.8), middle(0.6)) == (pytest.approx(0.8), 3)
    assert mean_of(middle(0.9), middle(0.3), never) == (pytest.approx(0.6), 2)
    assert mean_of(middle(0.4), never) == (pytest.approx(0.4), 1)


def test_nothing_to_see_around_the_first_answer(tmp_path, caplog):
    """The first look stands, and the log says why there is no other: one stray answer ends no validation."""
    image = np.zeros(GRID.size, np.int16)
    image[:6] = 500 + np.arange(28)[:, None]
    case = write_case(tmp_path, "Case07", image, (image > 0).astype(np.uint8), GRID)
    manager = DataManager((1.0, 1.25, 1.5), (32, 32, 32), zoom_ml=0.3)

    def at_the_dark_end(block):
        answer = np.zeros_like(block)
        answer[26:29, 14:18, 14:18] = 1
        return answer

    predictor = FunctionPredictor(at_the_dark_end)
    (row,) = evaluate_cases(predictor, manager, [case])
    assert len(predictor.blocks) == 1 and row["volume_ml_prediction"] > 0
    assert "Case07: no contrast around what look 1 of 3 found" in caplog.text


def test_further_looks_go_by_the_recipes_threshold(cases):
    """An answer of 0.4 is foreground at threshold 0.3, and then looked at again."""
    manager = DataManager((1.5, 1.5, 1.5), (32, 32, 32), zoom_ml=1.0)
    loaded = load_native(cases[0], manager)
    for threshold, looks in ((0.3, 3), (0.5, 1)):
        predictor = FunctionPredictor(lambda image: 0.4 * (image > 1))
        assert segment(predictor, manager, loaded, Postprocess(threshold)).any() == (looks == 3)
        assert len(predictor.blocks) == looks


def looks_at(case, boxes, **options):
    """Return the mask and the blocks that were looked at, of a network that answers with boxes whatever it sees."""
    manager = DataManager((1.5, 1.5, 1.5), (32, 32, 32), zoom_ml=1.0)

    def answer(image):
        probability = np.zeros_like(image)
        for box in boxes:
            probability[box] = 1
        return probability

    predictor = FunctionPredictor(answer)
    return segment(predictor, manager, load_native(case, manager), Postprocess(**options)), predictor.blocks


def test_opening_shapes_the_mask_and_not_the_looks(cases):
    lump_and_tongue = [np.s_[6:16, 10:22, 10:22], np.s_[16:28, 15:17, 10:22]]
    whole, plain = looks_at(cases[0], lump_and_tongue)
    opened, blocks = looks_at(cases[0], lump_and_tongue, opening=0.4)
    assert len(plain) == 3
    np.testing.assert_array_equal(blocks, plain)
    assert 0.5 * whole.sum() < opened.sum() < 0.95 * whole.sum()
    assert not (opened & ~whole).any()


def test_looks_go_by_all_components_where_all_are_kept(cases):
    """Of two lumps the next block has both in its middle, or the larger one alone."""
    lumps = [np.s_[4:10, 10:22, 10:22], np.s_[22:27, 10:22, 10:22]]
    _, both = looks_at(cases[0], lumps, largest_component=False)
    _, opened = looks_at(cases[0], lumps, largest_component=False, opening=0.2)
    _, larger = looks_at(cases[0], lumps)
    np.testing.assert_array_equal(opened, both)
    assert not np.array_equal(larger[1], both[1])


def test_validation_with_further_looks_pictures_the_first_case(cases):
    manager = DataManager((1.5, 1.5, 1.5), (32, 32, 32), zoom_ml=1.0)
    expected = ValidationSet(manager, cases[:1]).run(bright())
    result = ValidationSet(manager, cases).run(bright())
    assert np.array_equal(result.overlay, expected.overlay)
    assert not np.array_equal(result.overlay, ValidationSet(manager, cases[1:]).run(bright()).overlay)


def test_further_looks_at_several_classes(halved):
    manager = DataManager((1.5, 1.5, 1.5), (32, 32, 32), classes=3, zoom_ml=1.0)
    predictor = bright_halves()
    (row,) = evaluate_cases(predictor, manager, [halved])
    assert len(predictor.blocks) == 3 and row["dice_mean"] > 0.8


@pytest.fixture
def halved(tmp_path):
    """A case of two classes beside the background."""
    return bright_case(tmp_path / "halved", "Case00", halves=True)


def test_classes_through_to_the_row(halved):
    seen = []
    (row,) = evaluate_cases(bright_halves(), THREE_CLASSES, [halved], lambda *details: seen.append(details))
    mask, reference = seen[0][2:4]
    assert set(np.unique(mask)) == set(np.unique(reference)) == {0, 1, 2}
    for number in (1, 2):
        one, other = mask == number, reference == number
        overlap = 2 * np.sum(one & other) / (one.sum() + other.sum())
        assert row[f"dice_{number}"] == pytest.approx(overlap, abs=1e-12)
        assert overlap > 0.85
    assert row["dice_mean"] == pytest.approx((row["dice_1"] + row["dice_2"]) / 2, abs=1e-12)
    whole = 2 * np.sum((mask > 0) & (reference > 0)) / ((mask > 0).sum() + (reference > 0).sum())
    assert row["dice"] == pytest.approx(whole, abs=1e-12)
    # Swapped classes: the foreground stays as it is, and no class is right.
    swapped = FunctionPredictor(lambda image: bright_halves().function(image)[[0, 2, 1]])
    (wrong,) = evaluate_cases(swapped, THREE_CLASSES, [halved])
    assert wrong["dice"] == row["dice"]
    assert wrong["dice_mean"] < 0.1


def test_validation_goes_by_the_mean_over_classes(halved):
    (row,) = evaluate_cases(bright_halves(), THREE_CLASSES, [halved])
    result = ValidationSet(THREE_CLASSES, [halved]).run(bright_halves())
    assert result.mean_dice == pytest.approx(row["dice_mean"], abs=1e-12)
    assert result.per_case == {"Case00": result.mean_dice}
    assert row["dice"] != row["dice_mean"]
    only_first = FunctionPredictor(lambda image: bright_halves().function(image) * np.float32(
        [1, 1, 0]).reshape(3, 1, 1, 1))
    (half,) = evaluate_cases(only_first, THREE_CLASSES, [halved])
    assert half["dice_2"] == 0
    assert ValidationSet(THREE_CLASSES, [halved]).run(only_first).mean_dice == pytest.approx(half["dice_1"] / 2)


def test_validation_uses_the_postprocessing_it_is_given(cases):
    def two_boxes(image):
        answer = np.zeros_like(image)
        answer[12:20, 12:20, 12:20] = answer[8:10, 8:10, 8:10] = 1
        return answer

    largest = ValidationSet(MANAGER, cases).run(FunctionPredictor(two_boxes))
    both = ValidationSet(MANAGER, cases, postprocess=Postprocess(largest_component=False)).run(
        FunctionPredictor(two_boxes))
    assert both.mean_dice < largest.mean_dice


def test_whole_volumes_by_windows(cases):
    """Windows of a volume that is larger than they are give what one block around it all gives."""
    whole = DataManager((1.5, 1.5, 1.5), (16, 16, 16), whole=True)
    inner = bright()
    rows = evaluate_cases(WindowPredictor(inner, whole.volume_size), whole, cases)
    assert {block.shape for block in inner.blocks} == {(16, 16, 16)}
    expected = evaluate_cases(bright(), MANAGER, cases)
    for row, other in zip(rows, expected, strict=True):
        assert row["dice"] == pytest.approx(other["dice"], abs=0.02)  # 20 voxels lie half a voxel off 32
    cut = evaluate_cases(bright(), DataManager((1.5, 1.5, 1.5), (16, 16, 16)), [bright_case(
        cases[0].image_path.parents[1] / "large", "Case00", (14, 14, 14))])
    assert cut[0]["dice"] < 0.95  # a centre block of 24 mm misses the rim that the whole volume has


def test_promise12_metrics_where_they_are_asked_for(cases, halved):
    seen = []
    rows = evaluate_cases(bright(), MANAGER, cases, lambda *details: seen.append(details), scoring="promise12")
    for row, (_, _, mask, reference, grid) in zip(rows, seen, strict=True):
        assert row["promise12"] == region_metrics(mask, reference, grid)
        assert row["promise12"]["dice_whole"] == row["dice"]
    assert "promise12" not in evaluate_cases(bright(), MANAGER, cases[:1])[0]
    assert "promise12" not in evaluate_cases(bright_halves(), THREE_CLASSES, [halved], scoring="promise12")[0]


def test_missing_label_and_no_cases(cases):
    unlabelled = Case("Case00", cases[0].image_path)
    with pytest.raises(UserError, match="Case00: .* no ground truth"):
        evaluate_cases(nothing(), MANAGER, [unlabelled])
    with pytest.raises(UserError, match="no ground truth"):
        ValidationSet(MANAGER, [unlabelled])
    with pytest.raises(UserError, match="at least one case"):
        ValidationSet(MANAGER, [])


def test_problem_names_the_case(cases):
    cases[1].image_path.unlink()
    with pytest.raises(DataError, match="Case01: .*Case01.mhd"):
        evaluate_cases(nothing(), MANAGER, cases)
