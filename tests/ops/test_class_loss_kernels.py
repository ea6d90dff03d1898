"""The sums of the losses over any number of classes and their gradient against float64."""

import numpy as np
import pytest

from tests.ops.test_loss_kernels import LABEL_TYPES

# One voxel, less than a vector, an odd number, several runs of the sums.
SIZES = ((1, 3, (1, 1, 1)), (3, 2, (1, 2, 5)), (2, 5, (7, 9, 11)), (2, 16, (3, 5, 7)), (3, 4, (16, 17, 15)))


def volumes(samples: int, classes: int, size: tuple[int, ...], scale: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    logits = (scale * rng.standard_normal((samples, classes, *size))).astype(np.float32)
    return logits, rng.integers(0, classes, (samples, *size)).astype(np.float32)


def sums(library, logits: np.ndarray, label: np.ndarray, gamma: float = 2.0) -> np.ndarray:
    out = np.full((*logits.shape[:2], 6), -1, np.float32)
    library.call("ClassSums", [np.array([gamma], np.float32), logits, label], [out])
    return out


def gradient(library, dsums: np.ndarray, logits: np.ndarray, label: np.ndarray, gamma: float = 2.0) -> np.ndarray:
    out = np.full(logits.shape, -1, np.float32)
    library.call("ClassSumsGrad", [dsums, np.array([gamma], np.float32), logits, label], [out])
    return out


def parts(logits: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return labels g, probabilities p, 1 - p and -log p, each (N, C, voxels) in float64."""
    z = logits.astype(np.float64).reshape(*logits.shape[:2], -1)
    classes = np.arange(z.shape[1])[None, :, None]
    g = (label.reshape(len(z), 1, -1) == classes).astype(np.float64)
    with np.errstate(divide="ignore"):
        others = np.stack([np.logaddexp.reduce(np.where(classes == c, -np.inf, z), axis=1)
                           for c in range(z.shape[1])], axis=1)
    total = np.logaddexp.reduce(z, axis=1)[:, None]
    return g, np.exp(z - total), np.exp(others - total), np.logaddexp(0, others - z)


def expected_sums(logits: np.ndarray, label: np.ndarray, gamma: float) -> np.ndarray:
    g, p, q, entropy = parts(logits, label)
    focal = g * q**gamma * entropy if gamma >= 0 else 0 * g
    return np.stack([v.sum(2) for v in (p * g, p * p, g, p, g * entropy, focal)], axis=2)


def expected_gradient(dsums: np.ndarray, logits: np.ndarray, label: np.ndarray, gamma: float) -> np.ndarray:
    g, p, q, entropy = parts(logits, label)
    ds = [dsums.astype(np.float64)[..., i, None] for i in range(6)]
    w = ds[0] * g + 2 * ds[1] * p + ds[3]
    # Written so that nothing cancels: p_c sum_j p_j (w_c - w_j).
    through_p = p * np.einsum("ncjv,njv->ncv", w[:, :, None] - w[:, None], p)
    slope = q**gamma * (1 + gamma * p * np.where(q > 0, entropy / np.where(q > 0, q, 1), 1)) if gamma >= 0 else 0 * g
    of_entropy = (g * (ds[4] + ds[5] * slope)).sum(1, keepdims=True)
    return (through_p + of_entropy * ((1 - g) * p - g * q)).reshape(logits.shape)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("label_type", LABEL_TYPES[:4])
@pytest.mark.parametrize(("samples", "classes", "size"), SIZES)
def test_sums_and_gradient(library, samples, classes, size, label_type, threads):
    logits, label = volumes(samples, classes, size)
    label = label.astype(label_type)
    dsums = np.random.default_rng(0).standard_normal((samples, classes, 6)).astype(np.float32)
    library.set_threads(threads)
    try:
        found = sums(library, logits, label)
        np.testing.assert_array_equal(sums(library, logits, label), found)
        found_gradient = gradient(library, dsums, logits, label)
    finally:
        library.set_threads(2)
    np.testing.assert_allclose(found, expected_sums(logits, label, 2.0), rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(found_gradient, expected_gradient(dsums, logits, label, 2.0), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("gamma", [-1.0, 0.0, 0.5, 1.0, 2.0, 3.5])
def test_focal_sums(library, gamma):
    logits, label = volumes(2, 3, (5, 6, 7))
    dsums = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float32)
    found = sums(library, logits, label, gamma)
    np.testing.assert_allclose(found, expected_sums(logits, label, gamma), rtol=2e-6, atol=1e-6)
    if gamma == 0:
        np.testing.assert_allclose(found[..., 5], found[..., 4], rtol=1e-6)  # the focal loss is the cross-entropy
    if gamma < 0:
        dsums[..., 5] = 0
    np.testing.assert_allclose(gradient(library, dsums, logits, label, gamma),
                               expected_gradient(dsums, logits, label, gamma), rtol=1e-5, atol=2e-6)


def test_gradient_against_finite_differences(library):
    logits, label = volumes(1, 3, (1, 3, 7), 1.0)
    dsums = np.random.default_rng(1).standard_normal((1, 3, 6)).astype(np.float32)
    found = gradient(library, dsums, logits, label)
    for place in [(0, 0, 0, 0, 0), (0, 1, 0, 1, 5), (0, 2, 0, 2, 6)]:
        step = np.zeros(logits.shape)
        step[place] = 1e-5
        up, down = ((expected_sums(logits + sign * step, label, 2.0) * dsums).sum() for sign in (1, -1))
        assert found[place] == pytest.approx((up - down) / 2e-5, abs=1e-5)


def test_two_classes_equal_their_own_kernel(library):
    logits, label = volumes(2, 2, (7, 9, 11))
    own, general = np.zeros((2, 4), np.float32), sums(library, logits, label, -1.0)
    library.call("SegmentationSums", [logits, label], [own])
    np.testing.assert_allclose(general[:, 1, :3], own[:, :3], rtol=1e-6)
    np.testing.assert_allclose(general[..., 4].sum(1), own[:, 3], rtol=1e-6)
    dsums = np.random.default_rng(2).standard_normal((2, 4)).astype(np.float32)
    dgeneral = np.zeros((2, 2, 6), np.float32)
    dgeneral[:, 1, :2], dgeneral[:, :, 4] = dsums[:, :2], dsums[:, 3:]  # the sum of labels has no gradient
    expected = np.zeros_like(logits)
    library.call("SegmentationSumsGrad", [dsums, logits, label], [expected])
    np.testing.assert_allclose(gradient(library, dgeneral, logits, label, -1.0), expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("size", [1e-6, 20.0, 80.0, 100.0, 1e4, 1e30])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_logits_of_any_size_stay_accurate(library, size, sign, gamma):
    label = (np.arange(27) % 3).reshape(1, 3, 3, 3)
    logits = np.zeros((1, 3, 3, 3, 3), np.float32)
    logits[:, 1] = sign * size
    np.testing.assert_allclose(sums(library, logits, label, gamma), expected_sums(logits, label, gamma), rtol=2e-6,
                               atol=1e-15)
    entropy = np.zeros((1, 3, 6), np.float32)
    entropy[..., 4] = 1
    np.testing.assert_allclose(gradient(library, entropy, logits, label),
                               expected_gradient(entropy, logits, label, 2.0), rtol=2e-6, atol=1e-37)
    everything = np.ones((1, 3, 6), np.float32)
    np.testing.assert_allclose(gradient(library, everything, logits, label, gamma),
                               expected_gradient(everything, logits, label, gamma), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("gamma", [-1.0, 0.5, 2.0])
@pytest.mark.parametrize(("bad", "voxel"), [(np.nan, 0), (np.nan, 17), (np.inf, 5), (np.nan, 16)])
def test_nan_reaches_the_results(library, classes, gamma, bad, voxel):
    label = np.ones((2, 1, 3, 6), np.uint8)
    logits = np.zeros((2, classes, 1, 3, 6), np.float32)
    logits[1, 2].reshape(-1)[voxel] = bad
    found = sums(library, logits, label, gamma)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1][:, [0, 1, 3, 4]]).all()
    found = gradient(library, np.ones((2, classes, 6), np.float32), logits, label, gamma)
    assert np.isnan(found[1].reshape(classes, -1)[:, voxel]).all()
    assert np.isnan(found).sum() == classes


def test_a_label_of_no_class_counts_as_none(library):
    logits, label = volumes(1, 3, (2, 3, 4))
    label[0, 1] = 7
    np.testing.assert_allclose(sums(library, logits, label), expected_sums(logits, label, 2.0), rtol=2e-6, atol=1e-6)


def test_what_cannot_be_is_refused(library):
    logits, label = volumes(2, 3, (3, 4, 5))
    with pytest.raises(RuntimeError, match="label has 60 voxels, logits have 120"):
        sums(library, logits, label[:1])
    with pytest.raises(RuntimeError, match="label of type float64"):
        sums(library, logits, label.astype(np.float64))
    with pytest.raises(RuntimeError, match="logits have 1 classes, expected 2 to 16"):
        sums(library, logits[:, :1], label)
    with pytest.raises(RuntimeError, match=r"gradient has to be \(N, C, 6\)"):
        gradient(library, np.zeros((2, 3, 5), np.float32), logits, label)
