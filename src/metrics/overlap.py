"""Overlap of two masks: Dice, IoU and relative volume difference.

When both masks are empty they agree: Dice and IoU are 1, the volume difference is 0.
When one is empty Dice and IoU are 0 and the volume difference is -100 % (nothing predicted) or
+100 % (nothing there to predict), so that a mean over cases is always a number.
"""

import numpy as np

from src.metrics.masks import mask_pair


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice coefficient 2 |P ∩ R| / (|P| + |R|) (Dice 1945), in [0, 1].

    Args:
        prediction, reference: (X, Y, Z) masks; non-zero is foreground.

    Raises:
        ValueError: the shapes differ or a mask is not a mask.
    """
    predicted, true, common = _counts(prediction, reference)
    return 2.0 * common / (predicted + true) if predicted + true else 1.0


def iou(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Intersection over union |P ∩ R| / |P ∪ R| (Jaccard 1912), in [0, 1].

    Args:
        prediction, reference: (X, Y, Z) masks; non-zero is foreground.

    Raises:
        ValueError: the shapes differ or a mask is not a mask.
    """
    predicted, true, common = _counts(prediction, reference)
    union = predicted + true - common
    return common / union if union else 1.0


def relative_volume_difference(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Signed relative volume difference 100 (|P| / |R| - 1) in percent, > 0 when the prediction is too large.

    The definition is PROMISE12's (Litjens et al. 2014, doi:10.1016/j.media.2013.12.002), which scores
    the absolute value. An empty reference has no such ratio: +100 % then, 0 % when both are empty.

    Args:
        prediction, reference: (X, Y, Z) masks; non-zero is foreground.

    Raises:
        ValueError: the shapes differ or a mask is not a mask.
    """
    predicted, true, _ = _counts(prediction, reference)
    if not true:
        return 100.0 if predicted else 0.0
    return 100.0 * (predicted / true - 1.0)


def _counts(prediction: np.ndarray, reference: np.ndarray) -> tuple[int, int, int]:
    prediction, reference = mask_pair(prediction, reference)
    common = prediction & reference
    return int(np.count_nonzero(prediction)), int(np.count_nonzero(reference)), int(np.count_nonzero(common))
