"""Where an augmented block takes its voxels from, and the one resampling of image and label that follows.

Positions are voxel indices of the source, not necessarily whole. The whole map, affine part and deformation, is one
cubic B-spline: such a spline reproduces affine maps exactly, so that the affine part only moves the control points.
"""

from collections.abc import Sequence

import numpy as np

CELLS = 2  # of the control grid along each axis
CONTROL_POINTS = CELLS + 3  # a cubic B-spline has four at work in each cell
_CHUNK = 16384  # output voxels at a time: their temporaries stay in the cache


def affine_matrix(angles: Sequence[float] | np.ndarray, scale: float | np.ndarray,
                  spacing: Sequence[float]) -> np.ndarray:
    """Return the matrix from output to source voxel offsets of a rotation and a scaling in space.

    Args:
        angles: about the x, y and z axis, radians.
        scale: lengths in the source over lengths in the output; below 1 enlarges. One number, or (3,), of the source's
            axes.
        spacing: of the voxels, mm (x, y, z).

    Returns:
        (3, 3) float64.
    """
    matrix = np.diag(np.broadcast_to(np.asarray(scale, dtype=np.float64), 3))
    for axis, angle in enumerate(angles):
        first, second = [other for other in range(3) if other != axis]
        rotation = np.eye(3)
        rotation[first, first] = rotation[second, second] = np.cos(angle)
        rotation[first, second], rotation[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ rotation
    # The matrix turns lengths in mm; between voxel indices it is inverse(diag(spacing)) @ matrix @ diag(spacing).
    # Without that, a rotation of voxels of 1 x 1 x 1.5 mm shears the anatomy.
    lengths = np.asarray(spacing, dtype=np.float64)
    return matrix * (lengths[np.newaxis, :] / lengths[:, np.newaxis])


def source_positions(shape: Sequence[int], matrix: np.ndarray, shift: np.ndarray,
                     displacement: np.ndarray | None = None) -> np.ndarray:
    """Return where each output voxel o takes its value: c + matrix (o - c + d(o)) + shift, c being the block's centre.

    d is a free-form deformation by cubic B-splines (Rueckert et al. 1999, as in Milletari et al. 2016),

        d(o) = sum over i, j, k of b(u_x - i + 1) b(u_y - j + 1) b(u_z - k + 1) displacement[:, i, j, k]

    with i, j, k = 0..4, b the centred cubic B-spline, and u = 2 (o + 1/2) / shape, from 0 to 2 over the block's edges.
    "2 x 2 x 2" counts the cells of the control grid, as ITK's mesh size does: in each, 4 x 4 x 4 control points are at
    work, of 5 x 5 x 5 in all; the outermost lie one cell outside the block.

    Args:
        shape: of the block (X, Y, Z).
        matrix: (3, 3), see `affine_matrix`.
        shift: (3,) voxels of the source.
        displacement: (3, 5, 5, 5) of the control points, voxels; None for none.

    Returns:
        (3, X, Y, Z) float32.
    """
    size = np.asarray(shape, dtype=np.float64)
    places = [(np.arange(CONTROL_POINTS) - 1) * n / CELLS - 0.5 for n in size]
    points = np.stack(np.meshgrid(*places, indexing="ij")) - ((size - 1) / 2).reshape(3, 1, 1, 1)
    if displacement is not None:
        points += displacement
    control = np.tensordot(matrix, points, axes=1) + ((size - 1) / 2 + shift).reshape(3, 1, 1, 1)
    along_x, along_y, along_z = (spline_weights(int(n)).astype(np.float32) for n in size)
    partial = np.matmul(along_y, control.astype(np.float32) @ along_z.T)  # (3, 5, Y, Z)
    return np.matmul(along_x, partial.reshape(3, CONTROL_POINTS, -1)).reshape(3, *map(int, size))


def spline_weights(count: int) -> np.ndarray:
    """Return the weights of the control points along one axis at each of `count` voxels, (count, 5) float64."""
    position = (np.arange(count) + 0.5) * CELLS / count
    distance = np.abs(position[:, np.newaxis] - (np.arange(CONTROL_POINTS) - 1))
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    return np.where(distance < 1, near, far)


def resample(image: np.ndarray, label: np.ndarray, positions: np.ndarray,
             outside: float) -> tuple[np.ndarray, np.ndarray]:
    """Take image and label at the same positions, linearly.

    Around the volume lie voxels of value `outside` and class 0. The label is that of linear interpolation of each
    class's indicator: the class with the largest share, the lowest one of equals. So no class appears that none of the
    eight neighbours has, and borders stay smooth, which nearest neighbour does not give.

    Written with NumPy since image and label share indices and weights: a third of the time of
    `scipy.ndimage.map_coordinates` for the image alone.

    Args:
        image: (x, y, z) float32.
        label: (x, y, z) uint8.
        positions: (3, X, Y, Z) float32.
        outside: image value around the volume.

    Returns:
        image (X, Y, Z) float32 and label (X, Y, Z) uint8.
    """
    # Only the part that is asked for; of the surroundings one voxel on each side.
    size = np.array(image.shape)
    first = np.clip([int(np.floor(p.min())) for p in positions], -1, size - 1)
    last = np.clip([int(np.floor(p.max())) + 1 for p in positions], first + 1, size)
    # A position in the last voxel has a neighbour above, too.
    image, label = (_region(array, first, last + 1, value) for array, value in ((image, outside), (label, 0)))
    strides = np.array([image.shape[1] * image.shape[2], image.shape[2], 1], np.int32)
    corners = [x * strides[0] + y * strides[1] + z for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    limits = (last - first).astype(np.float32)
    columns = positions.reshape(3, -1)
    new_image, new_label = np.empty(columns.shape[1], np.float32), np.empty(columns.shape[1], np.uint8)
    for start in range(0, columns.shape[1], _CHUNK):
        part = slice(start, start + _CHUNK)
        base, fractions = _split(columns[:, part], first, limits, strides)
        new_image[part] = _interpolate([image.take(base + corner) for corner in corners], fractions)
        new_label[part] = _classes([label.take(base + corner) for corner in corners], fractions)
    return new_image.reshape(positions.shape[1:]), new_label.reshape(positions.shape[1:])


def _region(array: np.ndarray, first: np.ndarray, last: np.ndarray, outside: float) -> np.ndarray:
    """Return a copy of the voxels from `first` to `last`, both included; they may lie outside the volume."""
    inside = tuple(slice(max(a, 0), min(b + 1, n)) for a, b, n in zip(first, last, array.shape, strict=True))
    region = np.full(last - first + 1, outside, array.dtype)
    target = tuple(slice(part.start - a, part.stop - a) for part, a in zip(inside, first, strict=True))
    region[target] = array[inside]
    return region


def _split(positions: np.ndarray, first: np.ndarray, limits: np.ndarray,
           strides: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the flat index of each position's lower corner, and its distances from there along x, y and z."""
    base, fractions = np.zeros(positions.shape[1], np.int32), []
    for axis in range(3):
        position = np.clip(positions[axis] - np.float32(first[axis]), 0, limits[axis])
        index = position.astype(np.int32)
        fractions.append(position - index)
        base += index * strides[axis]
    return base, fractions


def _interpolate(values: list[np.ndarray], fractions: Sequence[np.ndarray]) -> np.ndarray:
    """Return the linear interpolation of eight corner values, z changing fastest; the values are used up."""
    for fraction in reversed(fractions):
        for low, high in zip(values[::2], values[1::2], strict=True):
            high -= low
            high *= fraction
            low += high
        values = values[::2]
    return values[0]


def _classes(corners: list[np.ndarray], fractions: Sequence[np.ndarray]) -> np.ndarray:
    """Return the class with the largest share in linear interpolation."""
    result = corners[0]
    mixed = np.zeros(result.shape, bool)
    for corner in corners[1:]:
        mixed |= corner != result
    at = np.flatnonzero(mixed)
    if not at.size:
        return result
    corners, fractions = [corner[at] for corner in corners], [fraction[at] for fraction in fractions]
    classes = np.unique(corners)
    shares = [_interpolate([(corner == value).astype(np.float32) for corner in corners], fractions)
              for value in classes]
    result[at] = classes[np.argmax(shares, axis=0)]
    return result
