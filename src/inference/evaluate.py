"""From cases on disk to masks on their own grid, and what these score against the ground truth."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from src.backend import Backend
from src.collectives import ONE_RANK, gather_shares, share
from src.data.case import Case
from src.data.data_manager import DataManager
from src.data.geometry import Geometry
from src.data.zoom import view_of
from src.errors import DataError, UserError
from src.inference.postprocess import DEFAULT_POSTPROCESS, Postprocess
from src.inference.predictor import Predictor
from src.inference.scoring import get_scoring
from src.metrics.cases import evaluate_case
from src.metrics.overlap import dice
from src.report.figures import overlay_array

logger = logging.getLogger(__name__)

FURTHER_LOOKS = 2  # with the recipe's `zoom_ml`

# (case, image (X, Y, Z), mask (X, Y, Z) uint8, reference (X, Y, Z) uint8, their grid)
OnCase = Callable[[Case, np.ndarray, np.ndarray, np.ndarray, Geometry], None]


@dataclass(frozen=True, eq=False)
class NativeCase:
    """A case as it lies on disk, and its block as the network wants it.

    Attributes:
        case_id: the case's name.
        image: (x, y, z) voxels as stored, on the grid `native`; None where only the block is kept.
        label: (x, y, z) uint8 of the classes' numbers on the same grid, 0 outside `region`, or None.
        native: the volume's grid.
        block_image: (X, Y, Z) float32, preprocessed: a block of VolSize, or with patches the whole volume; of several
            channels (C, X, Y, Z).
        block: the block's grid.
        region: (x, y, z) bool, the voxels that count, on the grid `native`; None for all.
    """

    case_id: str
    image: np.ndarray | None
    label: np.ndarray | None
    native: Geometry
    block_image: np.ndarray
    block: Geometry
    region: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class ValidationResult:
    """What a validation says.

    Attributes:
        mean_dice: mean over the cases, on their own grids; of several classes, each case's is the mean over them.
        per_case: Dice by case id.
        overlay: picture (H, W, 3) uint8 of the first case, prediction in red over the reference in green.
    """

    mean_dice: float
    per_case: dict[str, float]
    overlay: np.ndarray


def load_native(case: Case, manager: DataManager, need_label: bool = False) -> NativeCase:
    """Read a case once and preprocess it.

    Raises:
        DataError: every problem of the case, each beginning with the case id.
        UserError: `need_label` is set and the case has no ground truth.
    """
    image, label, native, block_image, block = manager.read_preprocessed(case)
    if need_label and label is None:
        raise UserError(f"{case.case_id}: {case.image_path} has no ground truth to compare with; "
                        "use predict.py for volumes without labels")
    region = manager.region(case)
    if region is not None and label is not None:
        label = label * region.astype(label.dtype)
    return NativeCase(case.case_id, image, label, native, block_image, block, region)


def predict_native(predictor: Predictor, manager: DataManager, case: NativeCase,
                   postprocess: Postprocess = DEFAULT_POSTPROCESS) -> np.ndarray:
    """Return the case's probability (x, y, z), or (C, x, y, z), float32 on its own grid; 0 outside its region.

    With the recipe's `zoom_ml` it is the mean of up to three looks: the second and third are at the mask that the one
    before gives, see `data/zoom.py`. Where that is empty, or no contrast is around it, the looks so far count.

    Raises:
        UserError: the network's probability is not finite, see `require_finite`.
    """
    look = _look(predictor, manager, case, case.block_image, case.block)
    total, count = look, 1
    found = replace(postprocess, opening=0.0)  # it is for the mask that is kept: looks at an opened one were no better
    for _ in range(FURTHER_LOOKS if manager.zoom_ml else 0):
        view = view_of(found.mask(look), case.native, manager.zoom_ml)
        if view is None:
            break
        assert case.image is not None  # kept for recipes with zoom_ml
        try:
            block_image, block = manager.preprocess(case.image, case.native, view)
        except DataError:  # the first look saw contrast, so the volume is in order
            logger.warning("%s: no contrast around what look %d of %d found, so no further look", case.case_id, count,
                           1 + FURTHER_LOOKS)
            break
        look = _look(predictor, manager, case, block_image, block)
        total, count = total + look, count + 1
    native = total / np.float32(count) if count > 1 else total
    return native if case.region is None else native * case.region.astype(native.dtype)


def _look(predictor: Predictor, manager: DataManager, case: NativeCase, image: np.ndarray,
          block: Geometry) -> np.ndarray:
    probability = predictor.predict_block(image)
    require_finite(probability, case.case_id, predictor.path)
    return manager.paste_back(probability, block, case.native)


def segment(predictor: Predictor, manager: DataManager, case: NativeCase,
            postprocess: Postprocess = DEFAULT_POSTPROCESS) -> np.ndarray:
    """Return the case's predicted mask (x, y, z) uint8 of the classes' numbers, on its own grid and in its region.

    Raises:
        UserError: as `predict_native`.
    """
    return postprocess.mask(predict_native(predictor, manager, case, postprocess))


def require_finite(probability: np.ndarray, case_id: str, model: Path | None) -> None:
    """Check that a probability is a number everywhere: NaN is above no threshold and would pass for background.

    Args:
        probability: of any shape.
        case_id: the case it is the answer to.
        model: the network's file, where there is one.

    Raises:
        UserError: a voxel is NaN or infinite; names case and model and says how many voxels are.
    """
    bad = probability.size - np.count_nonzero(np.isfinite(probability))
    if bad:
        raise UserError(f"{case_id}: {f'model {model}' if model else 'the network'} gives a probability that is not "
                        f"finite in {bad} of {probability.size} voxels, expected none; use another checkpoint, or "
                        "train again with a larger batch_size or VolSize")


def evaluate_cases(predictor: Predictor, manager: DataManager, cases: Sequence[Case], on_case: OnCase | None = None,
                   postprocess: Postprocess = DEFAULT_POSTPROCESS, backend: Backend = ONE_RANK,
                   scoring: str = "none") -> list[dict[str, Any]]:
    """Predict and score every case on its own grid, one log line each; several ranks share the cases.

    Args:
        predictor: of the network.
        manager: the preprocessing it was trained with; says how many classes there are.
        cases: with ground truth.
        on_case: called after each case, see `OnCase`, on the rank that predicted it.
        postprocess: from probability to mask.
        backend: says which rank this is, of how many.
        scoring: further results of each case, a name in `scoring.SCORINGS`, or `none`.

    Returns:
        A row per case, see `metrics.cases.evaluate_case`, in the order of `cases` and the same on every rank. With a
        scoring it has a further key of that name, with the scoring's own row. Of a case with a region only what lies
        in it counts.

    Raises:
        DataError: a case cannot be read; `data.check.check_cases` finds all of them beforehand.
        UserError: a case has no ground truth, or its probability is not finite.
    """
    scorer = get_scoring(scoring, manager.classes)

    def score(number: int, case: Case) -> dict[str, Any]:
        started = time.perf_counter()
        loaded = load_native(case, manager, need_label=True)
        assert loaded.image is not None and loaded.label is not None
        probability = predict_native(predictor, manager, loaded, postprocess)
        mask = postprocess.mask(probability)
        row = evaluate_case(case.case_id, mask, loaded.label, loaded.native.spacing, manager.classes)
        if scorer is not None:
            row[scoring] = scorer.row(mask, probability, loaded.label, loaded.region, loaded.native)
        logger.info("%s (%d of %d): dice %.4f, %.1f s", case.case_id, number, len(cases), row["dice"],
                    time.perf_counter() - started)
        if on_case is not None:
            on_case(case, loaded.image, mask, loaded.label, loaded.native)
        return row

    own = share(backend, list(enumerate(cases, 1)))
    return gather_shares(backend, lambda: [score(number, case) for number, case in own])


def mean_dice(prediction: np.ndarray, reference: np.ndarray, classes: int) -> float:
    """Return the mean over the classes above 0 of the Dice of masks (X, Y, Z) that hold their numbers."""
    return float(np.mean([dice(prediction == number, reference == number) for number in range(1, classes)]))


class ValidationSet:
    """The validation cases of a run, read and preprocessed once, or each time, and scored as often as wanted.

    Several ranks share them.

    Args:
        manager: preprocessing of the recipe.
        cases: at least one, with ground truth.
        backend: says which rank this is, of how many.
        in_memory: keep the cases; else they are read from disk each time.
        postprocess: from probability to mask.

    Raises:
        DataError: a case cannot be read.
        UserError: no case, or one without ground truth.
    """

    def __init__(self, manager: DataManager, cases: Sequence[Case], backend: Backend = ONE_RANK,
                 in_memory: bool = True, postprocess: Postprocess = DEFAULT_POSTPROCESS):
        if not cases:
            raise UserError("validation needs at least one case; check the validation split")
        self.manager = manager
        self.backend = backend
        self.postprocess = postprocess
        self.pictured = cases[0]
        self.cases: list[NativeCase] | list[Case] = list(share(backend, cases))
        if in_memory:
            self.cases = [self._load(case) for case in share(backend, cases)]

    def _load(self, case: Case) -> NativeCase:
        loaded = load_native(case, self.manager, need_label=True)
        # Of all native images only the pictured one is needed again, and they are the largest part. Further looks need
        # each of them.
        return loaded if case is self.pictured or self.manager.zoom_ml else replace(loaded, image=None)

    def run(self, predictor: Predictor) -> ValidationResult:
        """Return the Dice of every case on its own grid, after the same postprocessing as in evaluation.

        Of several classes a case's Dice is the mean of theirs, `dice_mean` in the rows of an evaluation. Surface
        distances are left out: they would take longer than the prediction. With several ranks each predicts its share,
        and all get the Dice of all cases; the overlay is made on rank 0.

        Raises:
            UserError: a case's probability is not finite, on this rank or another.
        """
        overlay = np.zeros((1, 1, 3), np.uint8)

        def score(kept: NativeCase | Case) -> tuple[str, float]:
            nonlocal overlay
            case = self._load(kept) if isinstance(kept, Case) else kept
            mask = segment(predictor, self.manager, case, self.postprocess)
            assert case.label is not None
            if case.case_id == self.pictured.case_id:
                assert case.image is not None
                overlay = overlay_array(case.image, mask, case.label, case.native.spacing, case.native.direction)
            return case.case_id, mean_dice(mask, case.label, self.manager.classes)

        per_case = dict(gather_shares(self.backend, lambda: [score(case) for case in self.cases]))
        return ValidationResult(float(np.mean(list(per_case.values()))), per_case, overlay)
