"""From a probability volume to the mask that is written and scored."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

THRESHOLD = 0.5


@dataclass(frozen=True)
class Postprocess:
    """What happens to a probability on the volume's own grid.

    Attributes:
        threshold: voxels above it are foreground.
        largest_component: whether only the largest connected component is kept.
    """

    threshold: float = THRESHOLD
    largest_component: bool = True

    def mask(self, probability: np.ndarray) -> np.ndarray:
        """Return the (X, Y, Z) uint8 mask of {0, 1} of a (X, Y, Z) probability."""
        mask = probability_to_mask(probability, self.threshold)
        return largest_component(mask) if self.largest_component else mask


DEFAULT_POSTPROCESS = Postprocess()


def probability_to_mask(probability: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Return 1 where `probability` is above `threshold`, else 0, as uint8 of the same shape."""
    return (probability > threshold).astype(np.uint8)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Keep the connected component with the most voxels; voxels are connected through faces only.

    Args:
        mask: (X, Y, Z); non-zero is foreground.

    Returns:
        (X, Y, Z) uint8 of {0, 1}. An empty mask stays empty; of components of equal size the one whose first
        voxel comes first in memory order (x slowest) is kept.
    """
    labels, count = ndimage.label(mask != 0, ndimage.generate_binary_structure(mask.ndim, 1))
    if count == 0:
        return np.zeros(mask.shape, np.uint8)
    # The background is label 0 and, being counted like a component, would win over any small foreground.
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return (labels == int(sizes.argmax()) + 1).astype(np.uint8)
