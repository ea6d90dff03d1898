"""Several networks as one: the mean of their probabilities."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.errors import UserError
from src.inference.predictor import ExportedPredictor, NetworkPredictor

logger = logging.getLogger(__name__)

# What the members see and what their answer means. The unet3d_brain recipe has `target_size` and `normalise_by`, those
# of pictures have `image_size`.
SHARED_KEYS = ("task", "classes", "dstRes", "VolSize", "intensity_percentiles", "normDir", "patches", "target_size",
               "normalise_by", "image_size")
# How the answer is made and read; one value has to serve the ensemble.
PREDICTION_KEYS = ("window_overlap", "tta", "threshold", "largest_component", "scoring", "zoom_ml", "opening")
_ABSENT = {"classes": 2, "patches": False}  # of recipes from before the key


Member = NetworkPredictor | ExportedPredictor


class EnsemblePredictor:
    """The mean of the members' probabilities.

    Every member keeps its weights, and a compiled graph of its own with the memory that it works in, so memory and the
    time of the first answer grow with the number of members. Of the answers only the sum and one are held.

    Args:
        predictors: at least one; all take the same blocks and give probabilities of one shape.

    Raises:
        ValueError: no member.
    """

    def __init__(self, predictors: Sequence[Member]):
        if not predictors:
            raise ValueError("an ensemble needs at least one member")
        self.predictors = list(predictors)
        self._not_finite: Member | None = None

    @property
    def path(self) -> Path | None:
        """The file of a member that gave an answer that is not finite, once one did, since that is the one to name.

        Else the folder that all files of members lie in; None where a member comes from no file.
        """
        if self._not_finite is not None:
            return self._not_finite.path
        paths = [member.path for member in self.predictors]
        known = [path.absolute() for path in paths if path is not None]
        if len(known) < len(paths):
            return None
        return paths[0] if len(paths) == 1 else Path(os.path.commonpath(known))

    def predict_block(self, image: np.ndarray) -> np.ndarray:
        """Return the probability (X, Y, Z), or (C, X, Y, Z), float32 of a block (…, X, Y, Z)."""
        return self._mean(lambda member: member.predict_block(image))

    def predict_batch(self, batch: np.ndarray) -> np.ndarray:
        """Return the probability float32 of a batch, see `NetworkPredictor.predict_batch`."""
        return self._mean(lambda member: member.predict_batch(batch))

    def _mean(self, answer_of: Callable[[Member], np.ndarray]) -> np.ndarray:
        total: np.ndarray | None = None
        for member in self.predictors:
            answer = answer_of(member)
            if self._not_finite is None and not np.isfinite(answer).all():
                self._not_finite = member
            if total is None:
                total = np.array(answer, np.float32)
            else:
                total += answer
            del answer
        assert total is not None  # there is a member
        total /= np.float32(len(self.predictors))
        return total


def check_members(paths: Sequence[Path], recipes: Sequence[Mapping[str, Any]]) -> None:
    """Check that checkpoints can be one ensemble: the same preprocessing and the same classes.

    Of keys that say how the answer is made and read, the first checkpoint's values are taken; a difference is a
    warning in the log.

    Args:
        paths: of the checkpoints.
        recipes: of each, with the changes that were asked for.

    Raises:
        UserError: a key of `SHARED_KEYS` has two values; names it, both values and both files.
    """
    first = recipes[0]
    for path, recipe in zip(paths[1:], recipes[1:], strict=True):
        for key in SHARED_KEYS:
            values = [one.get(key, _ABSENT.get(key)) for one in (first, recipe)]
            if values[0] != values[1]:
                raise UserError(f"checkpoints {paths[0]} and {path} cannot be one ensemble: recipe key {key!r} is "
                                f"{values[0]} in the first and {values[1]} in the other, expected the same; leave one "
                                "out, or train it anew")
        for key in PREDICTION_KEYS:
            if key in first and first[key] != recipe.get(key, first[key]):
                logger.warning("recipe key %r is %s in %s and %s in %s: taking the first; choose with --set %s=…", key,
                               first[key], paths[0], recipe[key], path, key)
