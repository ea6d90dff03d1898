"""The sums of the segmentation losses and their gradient against float64."""

import numpy as np
import pytest

LABEL_TYPES = (np.float32, np.uint8, np.int32, np.int64, np.bool_)
# One voxel, less than a vector, an odd number, several runs of the sums.
SIZES = ((1, (1, 1, 1)), (3, (1, 2, 5)), (2, (7, 9, 11)), (4, (16, 17, 15)))


def volumes(samples: int, size: tuple[int, ...], scale: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(samples)
    logits = (scale * rng.standard_normal((samples, 2, *size))).astype(np.float32)
    return logits, rng.random((samples, *size)) < 0.3


def sums(library, logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    out = np.full((logits.shape[0], 4), -1, np.float32)
    library.call("SegmentationSums", [logits, label], [out])
    return out


def gradient(library, dsums: np.ndarray, logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    out = np.full(logits.shape, -1, np.float32)
    library.call("SegmentationSumsGrad", [dsums, logits, label], [out])
    return out


def difference(logits: np.ndarray) -> np.ndarray:
    return logits[:, 1].astype(np.float64) - logits[:, 0]


def expected_sums(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    d = difference(logits)
    p, g = np.exp(-np.logaddexp(0, -d)), label.astype(np.float64)
    entropy = np.logaddexp(0, d) - g * d
    return np.stack([v.reshape(len(d), -1).sum(1) for v in (p * g, p * p, g * g, entropy)], axis=1)


def expected_gradient(dsums: np.ndarray, logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    d = difference(logits)
    p, q, g = np.exp(-np.logaddexp(0, -d)), np.exp(-np.logaddexp(0, d)), label.astype(np.float64)
    s = [dsums.astype(np.float64)[:, i].reshape(-1, 1, 1, 1) for i in range(4)]
    dd = (s[0] * g + 2 * s[1] * p) * p * q + s[3] * ((1 - g) * p - g * q)
    return np.stack([-dd, dd], axis=1)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("label_type", LABEL_TYPES)
@pytest.mark.parametrize(("samples", "size"), SIZES)
def test_sums_and_gradient(library, samples, size, label_type, threads):
    logits, label = volumes(samples, size)
    label = label.astype(label_type)
    dsums = np.random.default_rng(0).standard_normal((samples, 4)).astype(np.float32)
    library.set_threads(threads)
    try:
        found = sums(library, logits, label)
        np.testing.assert_array_equal(sums(library, logits, label), found)
        found_gradient = gradient(library, dsums, logits, label)
    finally:
        library.set_threads(2)
    np.testing.assert_allclose(found, expected_sums(logits, label), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found_gradient, expected_gradient(dsums, logits, label), rtol=2e-6, atol=1e-6)


def test_labels_need_not_be_0_and_1(library):
    logits, label = volumes(2, (5, 6, 7))
    label = (0.8 * label + 0.1).astype(np.float32)
    dsums = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(sums(library, logits, label), expected_sums(logits, label), rtol=1e-6)
    np.testing.assert_allclose(gradient(library, dsums, logits, label), expected_gradient(dsums, logits, label),
                               rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (33, 31), (256, 256)])
def test_pictures_and_a_lone_logit(library, size):
    """Logits (N, 2, H, W), and (N, 1, H, W) of class 1 beside a background of 0."""
    logits, label = volumes(3, (1, *size))
    logits, label = logits[:, :, 0], label[:, 0].astype(np.float32)
    lone = np.ascontiguousarray(logits[:, 1:])
    both = np.concatenate([np.zeros_like(lone), lone], axis=1)
    np.testing.assert_array_equal(sums(library, lone, label), sums(library, both, label))
    np.testing.assert_allclose(sums(library, logits, label), expected_sums(logits, label), rtol=1e-6, atol=1e-6)
    dsums = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    found = gradient(library, dsums, lone, label)
    np.testing.assert_array_equal(found, gradient(library, dsums, both, label)[:, 1:])
    np.testing.assert_allclose(found[:, None], expected_gradient(dsums, both[:, :, None], label[:, None])[:, 1:],
                               rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("size", [1e-6, 20.0, 80.0, 100.0, 1e4, 1e30])
@pytest.mark.parametrize("sign", [-1, 1])
def test_logits_of_any_size_stay_accurate(library, size, sign):
    label = np.arange(18).reshape(1, 2, 3, 3) % 2 == 0
    logits = np.zeros((1, 2, 2, 3, 3), np.float32)
    logits[:, 1] = sign * size
    expected = expected_sums(logits, label)
    np.testing.assert_allclose(sums(library, logits, label), expected, rtol=1e-6, atol=1e-30)
    entropy = np.array([[0, 0, 0, 1]], np.float32)
    # Below 1e-38, e^x is zero.
    np.testing.assert_allclose(gradient(library, entropy, logits, label), expected_gradient(entropy, logits, label),
                               rtol=1e-6, atol=1e-37)
    assert np.isfinite(gradient(library, np.ones((1, 4), np.float32), logits, label)).all()


@pytest.mark.parametrize("voxel", [0, 5, 16, 17])
def test_nan_reaches_the_results(library, voxel):
    label = np.ones((2, 1, 3, 6), np.uint8)
    logits = np.zeros((2, 2, 1, 3, 6), np.float32)
    logits[1, 0].flat[voxel] = np.nan
    found = sums(library, logits, label)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1, [0, 1, 3]]).all()
    found = gradient(library, np.ones((2, 4), np.float32), logits, label)
    assert np.isnan(found[1, :].reshape(2, -1)[:, voxel]).all()
    assert np.isnan(found).sum() == 2


def test_what_cannot_be_is_refused(library):
    logits, label = volumes(2, (3, 4, 5))
    with pytest.raises(RuntimeError, match="label has 60 voxels, logits have 120"):
        sums(library, logits, label[:1])
    with pytest.raises(RuntimeError, match="label of type float64"):
        sums(library, logits, label.astype(np.float64))
    with pytest.raises(RuntimeError, match=r"logits have to be \(N, 2, ...\), or \(N, 1, ...\)"):
        sums(library, logits[:, [0, 1, 1]], label)
