"""What every metric asks of the two masks it compares."""

import numpy as np


def mask_pair(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both masks as bool arrays of one shape; non-zero is foreground.

    Args:
        prediction, reference: (X, Y, Z) masks, bool or whole numbers.

    Raises:
        ValueError: the shapes differ, or a mask holds fractions or non-finite numbers (a probability that
            nobody thresholded would otherwise count as foreground almost everywhere).
    """
    prediction, reference = np.asarray(prediction), np.asarray(reference)
    if prediction.shape != reference.shape:
        raise ValueError(
            f"the prediction has shape {prediction.shape} and the reference {reference.shape}; "
            "compare masks on one grid: resample the prediction to the image's own grid first"
        )
    return _as_mask(prediction, "prediction"), _as_mask(reference, "reference")


def _as_mask(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype == np.bool_:
        return array
    if np.issubdtype(array.dtype, np.inexact) and not np.array_equal(array, np.rint(array)):
        raise ValueError(f"the {name} holds fractions or NaN ({array.dtype}); expected a mask: threshold it first")
    return array != 0
