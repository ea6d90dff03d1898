import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import cKDTree

from src.metrics.surface import bounding_box, surface, surface_distances

SPACING = (0.5, 0.75, 3.0)


def mask_of(*voxels, shape=(12, 10, 8)):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(np.transpose(voxels))] = True
    return mask


def box(start, stop, shape=(12, 10, 8)):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def values(distances):
    return distances.hausdorff, distances.hd95, distances.average_boundary_distance


def blob(seed, shape=(24, 20, 12), sigma=2.0):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma) > 0.03


def reference_distances(prediction, reference, spacing):
    """The definitions word for word: neighbours looked up one by one, nearest points in float64."""

    def points(mask):
        padded = np.pad(mask, 1)
        found = []
        for index in np.argwhere(padded):
            neighbours = [tuple(index + sign * step) for step in np.eye(3, dtype=int) for sign in (-1, 1)]
            if not all(padded[neighbour] for neighbour in neighbours):
                found.append((index - 1) * np.asarray(spacing, dtype=np.float64))
        return np.array(found)

    of_prediction, of_reference = points(prediction), points(reference)
    forth = cKDTree(of_reference).query(of_prediction)[0]
    back = cKDTree(of_prediction).query(of_reference)[0]
    mean = (forth.sum() + back.sum()) / (len(forth) + len(back))
    return max(forth.max(), back.max()), max(np.percentile(forth, 95), np.percentile(back, 95)), mean


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((4, 3, 2), 0.0),
        ((6, 3, 2), 1.0),
        ((4, 5, 2), 1.5),
        ((4, 3, 4), 6.0),
        ((7, 5, 3), np.sqrt(1.5**2 + 1.5**2 + 3.0**2)),
    ],
)
def test_two_single_voxels(other, expected):
    assert values(surface_distances(mask_of((4, 3, 2)), mask_of(other), SPACING)) == pytest.approx([expected] * 3)


def test_one_voxel_against_two():
    # Directed: 0 from the single voxel; 0 and 4 voxels of 0.5 mm from the pair, whose 95th percentile is 0.95 * 2.
    single, pair = mask_of((2, 3, 2)), mask_of((2, 3, 2), (6, 3, 2))
    assert values(surface_distances(single, pair, SPACING)) == pytest.approx((2.0, 1.9, 2.0 / 3))


def test_plate_shifted_through_plane():
    # One voxel thick, so each of its 12 voxels is surface and lies exactly two slices from the other.
    low, high = box((2, 2, 1), (6, 5, 2)), box((2, 2, 3), (6, 5, 4))
    assert values(surface_distances(low, high, SPACING)) == pytest.approx((6.0, 6.0, 6.0))


def test_box_shifted_in_plane():
    # 4x3x2 voxels moved by one voxel in x (0.5 mm). Thickness 2 in z makes every voxel surface: of 24 voxels a
    # side, only the outer layer of 6 is not shared, and each of those lies one voxel from the other box.
    still, moved = box((2, 2, 2), (6, 5, 4)), box((3, 2, 2), (7, 5, 4))
    assert values(surface_distances(still, moved, SPACING)) == pytest.approx((0.5, 0.5, 12 * 0.5 / 48))


def test_inner_box_is_measured_surface_to_surface():
    # A 1-voxel core in a 5x5x5 box: 98 surface voxels; the nearest lie 2 voxels away in x (the smallest spacing).
    core, hull = mask_of((5, 5, 4)), box((3, 3, 2), (8, 8, 7))
    distances = surface_distances(core, hull, SPACING)
    assert distances.hausdorff == pytest.approx(np.linalg.norm([1.0, 1.5, 6.0]))
    ring = np.argwhere(surface(hull)) - (5, 5, 4)
    assert len(ring) == 98
    expected = (1.0 + np.linalg.norm(ring * SPACING, axis=1).sum()) / 99
    assert distances.average_boundary_distance == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING])
def test_random_blobs_against_brute_force(seed, spacing):
    prediction, reference = blob(seed), blob(seed + 100)
    assert prediction[0].any() and reference[-1].any(), "the blobs are meant to touch the border"
    found = values(surface_distances(prediction, reference, spacing))
    assert found == pytest.approx(reference_distances(prediction, reference, spacing), rel=1e-12)


def itk_image(mask):
    """Bring a mask to SimpleITK, with a voxel of background around it: beyond the border is outside."""
    image = sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8).transpose(2, 1, 0))
    image.SetSpacing(SPACING)
    return image


def itk_hausdorff(first, second):
    measure = sitk.HausdorffDistanceImageFilter()
    measure.Execute(first, second)
    return measure.GetHausdorffDistance()


@pytest.mark.parametrize("seed", range(6))
def test_random_blobs_against_simpleitk(seed):
    """SimpleITK measures between sets of voxels; given the two surfaces, found by itself, it has our definition.

    On these blobs whole masks give the same: the point that lies furthest from the other mask is a surface point.
    """
    prediction, reference = blob(seed), blob(seed + 100)
    found = surface_distances(prediction, reference, SPACING).hausdorff
    images = [itk_image(mask) for mask in (prediction, reference)]
    surfaces = [sitk.BinaryContour(image, fullyConnected=False, foregroundValue=1) for image in images]
    assert found == pytest.approx(itk_hausdorff(*surfaces), rel=1e-4)
    assert found == pytest.approx(itk_hausdorff(*images), rel=1e-4)


def test_a_hole_is_where_voxel_sets_and_surfaces_differ():
    """A box against itself with a voxel missing in the middle.

    SimpleITK's filter on whole masks gives the missing voxel's way to its nearest neighbour, one voxel in x. Between
    surfaces it is the hole's wall that counts, and how deep it lies below the outer surface: its 6 voxels lie beside
    the middle, which is 4 voxels from the surface in x (2 mm), so those along y and z have 2 mm to go.
    """
    whole = box((1, 1, 1), (10, 10, 8), shape=(11, 11, 9))
    hollow = whole.copy()
    hollow[5, 5, 4] = False
    assert itk_hausdorff(itk_image(hollow), itk_image(whole)) == pytest.approx(0.5)
    assert surface_distances(hollow, whole, SPACING).hausdorff == pytest.approx(2.0)


def test_order_of_the_masks_does_not_matter():
    prediction, reference = blob(1), blob(2)
    forth, back = (surface_distances(*pair, SPACING) for pair in ((prediction, reference), (reference, prediction)))
    assert values(forth) == pytest.approx(values(back), rel=1e-15)


def test_empty_space_around_changes_nothing():
    prediction, reference = blob(3), blob(4)
    padded = [np.pad(mask, ((3, 9), (0, 5), (4, 0))) for mask in (prediction, reference)]
    assert surface_distances(*padded, SPACING) == surface_distances(prediction, reference, SPACING)


def test_image_border_counts_as_outside():
    full = np.ones((6, 5, 4), dtype=bool)
    assert surface(full).sum() == 6 * 5 * 4 - 4 * 3 * 2
    # Without the border rule a full image had no surface at all.
    corner = mask_of((0, 0, 0), shape=(6, 5, 4))
    assert surface_distances(full, corner, (1, 1, 1)).hausdorff == pytest.approx(np.sqrt(25 + 16 + 9))


def test_empty_masks():
    empty, filled = np.zeros((12, 10, 8)), box((2, 2, 2), (6, 5, 4))
    diagonal = np.sqrt(6.0**2 + 7.5**2 + 24.0**2)  # 12 * 0.5, 10 * 0.75, 8 * 3
    assert values(surface_distances(empty, empty, SPACING)) == (0.0, 0.0, 0.0)
    assert values(surface_distances(empty, filled, SPACING)) == pytest.approx([diagonal] * 3)
    assert values(surface_distances(filled, empty, SPACING)) == pytest.approx([diagonal] * 3)


def test_shapes_that_differ_are_named():
    with pytest.raises(ValueError, match=r"\(12, 10, 8\).*\(12, 10, 7\)"):
        surface_distances(np.zeros((12, 10, 8)), np.zeros((12, 10, 7)), SPACING)


@pytest.mark.parametrize("spacing", [(1, 1), (1, 1, 0), (1, -1, 1), (1, 1, np.nan)])
def test_impossible_spacing(spacing):
    with pytest.raises(ValueError, match="3 positive numbers"):
        surface_distances(np.ones((3, 3, 3)), np.ones((3, 3, 3)), spacing)


def test_bounding_box():
    assert bounding_box(box((2, 3, 4), (6, 5, 7))) == (slice(2, 6), slice(3, 5), slice(4, 7))
    with pytest.raises(ValueError, match="empty mask"):
        bounding_box(np.zeros((2, 2), dtype=bool))


def test_part_of_the_image():
    # Two bars along z, the prediction's 1 and 3 voxels away in x; below z = 4 only the first offset counts.
    reference = mask_of(*((2, 2, z) for z in range(8)))
    prediction = mask_of(*((3 if z < 4 else 5, 2, z) for z in range(8)))
    low = np.zeros(reference.shape, dtype=bool)
    low[..., :4] = True
    assert values(surface_distances(prediction, reference, (1, 1, 10), low)) == (1, 1, 1)
    # Above, the reference's voxel at z = 4 is 3 mm away from the prediction, its lower neighbour is 10 mm away.
    assert values(surface_distances(prediction, reference, (1, 1, 10), ~low)) == (3, 3, 3)
    assert values(surface_distances(prediction, reference, (1, 1, 10), low | ~low)) == values(
        surface_distances(prediction, reference, (1, 1, 10)))


def test_part_with_one_surface_or_none():
    reference, prediction = box((2, 2, 0), (5, 5, 2)), box((2, 2, 0), (5, 5, 6))
    part = np.zeros(reference.shape, dtype=bool)
    part[..., 4:] = True
    diagonal = np.linalg.norm([12 * 0.5, 10 * 0.75, 8 * 3.0])
    assert values(surface_distances(prediction, reference, SPACING, part)) == pytest.approx([diagonal] * 3)
    part[..., :6] = False
    assert values(surface_distances(prediction, reference, SPACING, part)) == (0, 0, 0)
