"""From a probability volume to the mask that is written and scored."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from src.metrics.surface import bounding_box

THRESHOLD = 0.5


@dataclass(frozen=True)
class Postprocess:
    """What happens to a probability on the volume's own grid.

    Attributes:
        threshold: voxels above it are foreground, where there are two classes.
        largest_component: whether only the largest connected component of the foreground is kept.
        opening: what is narrow for its slice is cut off the foreground, see `open_slices`; 0 for nothing. With
            `largest_component` before and after: an island would make a slice's disc too large, and what hung on a
            tongue is an island now.
    """

    threshold: float = THRESHOLD
    largest_component: bool = True
    opening: float = 0.0

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> "Postprocess":
        """Take the attributes from a recipe; one without their keys has the values above."""
        return cls(recipe.get("threshold", THRESHOLD), recipe.get("largest_component", True),
                   recipe.get("opening", 0.0))

    def mask(self, probability: np.ndarray) -> np.ndarray:
        """Return the mask (X, Y, Z) uint8.

        Args:
            probability: of the foreground (X, Y, Z), for a mask of {0, 1}; or of every class (C, X, Y, Z), for one of
                0 to C - 1, the most probable each. Opening and largest component are those of all classes above 0
                together, within which each voxel keeps its class.
        """
        several = probability.ndim == 4
        mask = most_probable_class(probability) if several else probability_to_mask(probability, self.threshold)
        kept = largest_component(mask) if self.largest_component else mask
        if self.opening:
            kept = open_slices(kept, self.opening)
            kept = largest_component(kept) if self.largest_component else kept
        return mask * kept if several and kept is not mask else kept


DEFAULT_POSTPROCESS = Postprocess()


def probability_to_mask(probability: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Return 1 where `probability` is above `threshold`, else 0, as uint8 of the same shape."""
    return (probability > threshold).astype(np.uint8)


def most_probable_class(probability: np.ndarray) -> np.ndarray:
    """Return the class (X, Y, Z) uint8 with the largest of the probabilities (C, X, Y, Z), the lowest of equal ones."""
    # As np.argmax, which takes six times as long over the first axis.
    highest = probability[0].copy()
    mask = np.zeros(highest.shape, np.uint8)
    for number in range(1, len(probability)):
        mask[probability[number] > highest] = number
        np.maximum(highest, probability[number], out=highest)
    return mask


def open_slices(mask: np.ndarray, share: float) -> np.ndarray:
    """Cut off what is narrow for its slice: tongues that run from an organ into its neighbours.

    Each slice along z is opened (Serra 1982, "Image Analysis and Mathematical Morphology": all places of a disc that
    fit into it, together) by a disc whose radius is `share` of that of a circle of the slice's own foreground. So the
    ends of an organ, small in all, stay. Pixels are taken for squares; outside the image there is background.

    Args:
        mask: (X, Y, Z); non-zero is foreground.
        share: above 0, below 1.

    Returns:
        (X, Y, Z) uint8 of {0, 1}. A slice in which the disc fits nowhere stays as it is.
    """
    kept = (mask != 0).astype(np.uint8)
    if not kept.any():
        return kept
    box = bounding_box(mask)
    for number in np.flatnonzero(kept.any(axis=(0, 1))):
        pixels = np.pad(kept[(*box[:2], number)], 1)
        radius = share * np.sqrt(np.count_nonzero(pixels) / np.pi)
        # A disc fits where the next background pixel is no nearer than its radius.
        places = ndimage.distance_transform_edt(pixels) >= radius
        if places.any():
            opened = ndimage.distance_transform_edt(~places) < radius
            kept[(*box[:2], number)] = opened[1:-1, 1:-1]
    return kept


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Keep the connected component with the most voxels; voxels are connected through faces only.

    Args:
        mask: (X, Y, Z); non-zero is foreground.

    Returns:
        (X, Y, Z) uint8 of {0, 1}. An empty mask stays empty; of components of equal size the one whose first
        voxel comes first in memory order (x slowest) is kept.
    """
    kept = np.zeros(mask.shape, np.uint8)
    if not mask.any():
        return kept
    # A gland fills a few per cent of its volume: nothing outside its box needs to be looked at.
    box = bounding_box(mask)
    labels, count = ndimage.label(mask[box] != 0, ndimage.generate_binary_structure(mask.ndim, 1))
    # The background is label 0 and, being counted like a component, would win over any small foreground.
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    kept[box] = labels == int(sizes.argmax()) + 1
    return kept
