"""Where a second look goes: a block centred on the foreground and scaled so that this is of one size in every case.

A network that sees organs of one size has less to learn than one that sees them as they come. Its first answer says
where the organ lies and how large it is; cut out and scaled by that, the volume is given to it again (as for the
pancreas in Zhou et al. 2017, "A Fixed-Point Model for Pancreas Segmentation in Abdominal CT Scans", MICCAI).
"""

from dataclasses import dataclass

import numpy as np

from src.data.geometry import Geometry

SCALES = (0.5, 2.0)  # least and largest


@dataclass(frozen=True)
class View:
    """A block of the network's size somewhere in a volume.

    Attributes:
        centre: mm, in the volume's frame.
        scale: edge of its voxels, in those of the recipe's `dstRes`; below 1 enlarges.
    """

    centre: tuple[float, float, float]
    scale: float


def view_of(mask: np.ndarray, grid: Geometry, millilitres: float) -> View | None:
    """Return the view in which a mask's foreground is `millilitres` large and lies in the middle.

    Args:
        mask: (x, y, z), foreground above 0.
        grid: of the mask.
        millilitres: of voxels of `dstRes`; volumes of less than an eighth or more than eight times that are scaled by
            the least and the largest of `SCALES`.

    Returns:
        The view; None of a mask without foreground.
    """
    # By axis: the indices of all voxels of a large mask would take many times its memory.
    profiles = [np.count_nonzero(mask, axis=others) for others in ((1, 2), (0, 2), (0, 1))]
    count = int(profiles[0].sum())
    if not count:
        return None
    index = np.array([profile @ np.arange(len(profile)) / count for profile in profiles])
    x, y, z = grid.index_to_point(index).tolist()
    scale = np.cbrt(count * grid.voxel_volume / 1000 / millilitres)
    return View((x, y, z), float(np.clip(scale, *SCALES)))
