"""Where voxels lie in space: size, spacing, origin and direction of a volume, and grids derived from it.

Conventions are those of ITK: `point = origin + direction @ (index * spacing)`, in mm in the patient's (LPS) frame,
the origin being the centre of voxel (0, 0, 0). A voxel reaches half a spacing to either side of its centre.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

# An extent of 10.0004 voxels is one of 10 stored with few digits, and needs no eleventh voxel.
_SIZE_SLACK = 1e-3
# Voxels along one axis, far more than memory holds: only a spacing that is wrong goes beyond it.
MAX_SIZE = 2**31 - 1


@dataclass(frozen=True)
class Geometry:
    """The grid of a volume.

    Attributes:
        size: voxels along (x, y, z).
        spacing: distance of neighbouring voxel centres along (x, y, z), mm.
        origin: centre of voxel (0, 0, 0), mm.
        direction: 3 x 3 matrix, row major; column k is the unit vector along which index k grows.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = IDENTITY

    def __post_init__(self) -> None:
        for name, kind, length in (("size", int, 3), ("spacing", float, 3), ("origin", float, 3),
                                   ("direction", float, 9)):
            values = tuple(kind(value) for value in getattr(self, name))
            if len(values) != length or not np.all(np.isfinite(values)):
                raise ValueError(f"{name} must be {length} finite numbers, not {getattr(self, name)!r}")
            object.__setattr__(self, name, values)
        if min(self.size) < 1 or min(self.spacing) <= 0:
            raise ValueError(f"size {self.size} and spacing {self.spacing} must be positive")

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) direction matrix."""
        return np.array(self.direction).reshape(3, 3)

    @property
    def extent(self) -> np.ndarray:
        """(3,) length of the volume along its own axes, whole voxels included, mm."""
        return np.array(self.size) * np.array(self.spacing)

    @property
    def centre(self) -> np.ndarray:
        """(3,) middle of the volume, mm."""
        return self.index_to_point((np.array(self.size) - 1) / 2)

    @property
    def diagonal(self) -> float:
        """Length of the volume's space diagonal, mm."""
        return float(np.linalg.norm(self.extent))

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel, mm^3."""
        return float(np.prod(self.spacing))

    def index_to_point(self, index: np.ndarray) -> np.ndarray:
        """Turn voxel indices (..., 3), not necessarily whole, into points (..., 3) in mm."""
        return np.asarray(index, float) * np.array(self.spacing) @ self.matrix.T + np.array(self.origin)

    def point_to_index(self, point: np.ndarray) -> np.ndarray:
        """Turn points (..., 3) in mm into voxel indices (..., 3), not rounded."""
        offset = np.asarray(point, float) - np.array(self.origin)
        return offset @ np.linalg.inv(self.matrix).T / np.array(self.spacing)

    def contains(self, point: np.ndarray) -> np.ndarray:
        """Whether points (..., 3) in mm lie in one of the voxels; bool (...)."""
        index = self.point_to_index(point)
        # The slack keeps a point on the border inside after rounding.
        return np.all((index >= -0.5 - 1e-6) & (index <= np.array(self.size) - 0.5 + 1e-6), axis=-1)

    def regrid(
        self, spacing: Sequence[float], min_size: Sequence[int], normalise_direction: bool = False
    ) -> "Geometry":
        """Make the grid of another spacing that covers this volume.

        The grid shares this volume's centre, so that its border is cut evenly. Where it has fewer voxels than
        `min_size`, whole voxels are added at both ends: with equal spacing, old and new voxels coincide exactly.

        Args:
            spacing: of the new grid, mm.
            min_size: least number of voxels along (x, y, z).
            normalise_direction: give the grid the identity direction and let it cover the box around the corners.

        Raises:
            ValueError: the grid would be longer than `MAX_SIZE` voxels.
        """
        target = np.array(spacing, float)
        with np.errstate(over="ignore", invalid="ignore"):  # a header may claim any spacing: infinity ends below
            extent = np.abs(self.matrix) @ self.extent if normalise_direction else self.extent
        size = np.maximum(np.ceil(extent / target - _SIZE_SLACK), 1)
        if not np.all(size <= MAX_SIZE):  # NaN is not
            raise ValueError(f"a volume of {self.size} voxels of {self.spacing} mm is too long for a grid of "
                             f"{tuple(target.tolist())} mm")
        size = size.astype(int)
        direction = IDENTITY if normalise_direction else self.direction
        padded = np.maximum(size, min_size)
        before = (padded - size) // 2
        to_first = -((size - 1) / 2 + before) * target
        origin = self.centre + np.array(direction).reshape(3, 3) @ to_first
        return Geometry(_three(padded), _three(target), _three(origin), direction)

    def centre_block(self, size: Sequence[int]) -> tuple["Geometry", tuple[slice, slice, slice]]:
        """Cut the block of `size` voxels out of the middle.

        Returns:
            The block's geometry, and the slices that cut it out of an array on this grid.

        Raises:
            ValueError: the block is larger than the grid.
        """
        start = np.array(self.size) - np.array(size)
        if np.any(start < 0):
            raise ValueError(f"a block of {tuple(size)} voxels does not fit into {self.size}")
        start //= 2
        block = Geometry(_three(size), self.spacing, _three(self.index_to_point(start)), self.direction)
        x, y, z = (slice(int(first), int(first) + int(count)) for first, count in zip(start, size, strict=True))
        return block, (x, y, z)

    def block_around(self, centre: Sequence[float], spacing: Sequence[float] | np.ndarray, size: Sequence[int],
                     normalise_direction: bool = False) -> "Geometry":
        """Make the grid of a block around a point, with this volume's direction or the identity.

        Args:
            centre: its middle, mm.
            spacing: of its voxels, mm.
            size: its voxels along (x, y, z).
        """
        direction = IDENTITY if normalise_direction else self.direction
        to_first = -(np.array(size) - 1) / 2 * np.array(spacing, float)
        origin = np.array(centre) + np.array(direction).reshape(3, 3) @ to_first
        return Geometry(_three(size), _three(spacing), _three(origin), direction)

    def differences(self, other: "Geometry", tolerance: float = 1e-2) -> list[str]:
        """Say in what another grid differs from this one.

        Headers are written with six to seventeen digits, so equality of numbers would be too strict. What counts is
        where the corner voxels come to lie.

        Args:
            other: the grid to compare.
            tolerance: largest displacement of a corner voxel, as a share of the smallest spacing.

        Returns:
            One phrase per difference, this grid's value first; empty when the grids are the same.
        """
        found = []
        if self.size != other.size:
            found.append(f"size {self.size} against {other.size}")
        corners = np.array(list(itertools.product(*((0, count - 1) for count in self.size))))
        shift = np.linalg.norm(self.index_to_point(corners) - other.index_to_point(corners), axis=-1).max()
        if shift > tolerance * min(self.spacing):
            values = [
                f"{name} {_digits(mine)} against {_digits(theirs)}"
                for name in ("spacing", "origin", "direction")
                if not np.allclose(mine := getattr(self, name), theirs := getattr(other, name), rtol=1e-5, atol=1e-5)
            ]
            found += values or ["position"]
            found[-1] += f" (corner voxels lie up to {shift:.4g} mm apart)"
        return found


def _three(values: Sequence | np.ndarray) -> tuple:
    x, y, z = (value.item() if isinstance(value, np.generic) else value for value in values)
    return x, y, z


def _digits(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
