"""Losses against hand-computed values and a float64 reference."""

import numpy as np
import pytest
from mindspore import Tensor, ops

from src.losses import BinaryCrossEntropyLoss, DiceCrossEntropyLoss, DiceLoss, build_loss


def logits_of(probability: np.ndarray) -> np.ndarray:
    """Return two-class logits (N, 2, ...) whose softmax gives `probability` (N, ...) for class 1."""
    return np.stack([np.zeros_like(probability), np.log(probability / (1 - probability))], axis=1)


def reference(logits: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Return Dice loss and cross-entropy in float64."""
    logits, label = logits.astype(np.float64), label.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    p = np.exp(log_softmax[:, 1])
    axes = tuple(range(1, p.ndim))
    dice = 1 - 2 * (p * label).sum(axes) / ((p**2).sum(axes) + (label**2).sum(axes) + 1e-5)
    entropy = -np.where(label > 0, log_softmax[:, 1], log_softmax[:, 0])
    return dice.mean(), entropy.mean()


def test_dice_by_hand():
    probability = np.array([0.5, 0.5, 0.5, 0.5]).reshape(1, 1, 2, 2)
    label = np.array([1, 0, 0, 0]).reshape(1, 1, 2, 2)
    # overlap 0.5, sizes 4 * 0.25 and 1: 1 - 2 * 0.5 / 2
    loss = DiceLoss()(Tensor(logits_of(probability), dtype=None).astype("float32"), Tensor(label.astype(np.float32)))
    assert loss.asnumpy() == pytest.approx(0.5, abs=1e-5)


def test_samples_are_not_pooled():
    probability = np.stack([np.full((2, 2, 2), 1 - 1e-6), np.full((2, 2, 2), 1e-6)])
    label = np.ones((2, 2, 2, 2), np.float32)
    # Dice 1 and 0 for the two samples, 2/3 if pooled.
    loss = DiceLoss()(Tensor(logits_of(probability).astype(np.float32)), Tensor(label))
    assert loss.asnumpy() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_both_losses_against_float64(scale):
    rng = np.random.default_rng(0)
    logits = (scale * rng.normal(size=(3, 2, 4, 3, 5))).astype(np.float32)
    label = (rng.random((3, 4, 3, 5)) > 0.7).astype(np.float32)
    dice, entropy = reference(logits, label)
    assert DiceLoss()(Tensor(logits), Tensor(label)).asnumpy() == pytest.approx(dice, abs=1e-5)
    combined = DiceCrossEntropyLoss()(Tensor(logits), Tensor(label)).asnumpy()
    assert combined == pytest.approx(dice + entropy, rel=1e-5)


@pytest.mark.parametrize("loss", [DiceLoss(), DiceCrossEntropyLoss()])
def test_gradient_against_finite_differences(loss):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 2, 2, 2, 2)).astype(np.float32)
    label = (rng.random((2, 2, 2, 2)) > 0.5).astype(np.float32)
    gradient = ops.grad(loss)(Tensor(logits), Tensor(label)).asnumpy()
    pick = 0 if isinstance(loss, DiceLoss) else slice(None)
    for place in [(0, 0, 0, 0, 0), (1, 1, 1, 0, 1)]:
        step = np.zeros_like(logits, dtype=np.float64)
        step[place] = 1e-4
        up, down = (np.sum(np.array(reference(logits + sign * step, label))[pick]) for sign in (1, -1))
        assert gradient[place] == pytest.approx((up - down) / 2e-4, abs=1e-5)


@pytest.mark.parametrize("served", [False, True])
def test_a_lone_logit_is_that_of_the_foreground(served, request):
    if served:
        request.getfixturevalue("kernels_in_use")
    rng = np.random.default_rng(2)
    logit = (5 * rng.normal(size=(2, 1, 3, 4, 5))).astype(np.float32)
    label = (rng.random((2, 3, 4, 5)) > 0.6).astype(np.float32)
    dice, entropy = reference(np.concatenate([np.zeros_like(logit), logit], axis=1), label)
    expected = {"dice": dice, "dice_ce": dice + entropy, "bce": entropy}
    for name, value in expected.items():
        assert build_loss(name)(Tensor(logit), Tensor(label)).asnumpy() == pytest.approx(value, rel=1e-5)
    # By hand: the gradient of the mean cross-entropy is (sigmoid(logit) - label) / count.
    gradient = ops.grad(build_loss("bce"))(Tensor(logit), Tensor(label)).asnumpy()
    np.testing.assert_allclose(gradient[:, 0], (1 / (1 + np.exp(-logit[:, 0])) - label) / label.size, atol=1e-7)


@pytest.mark.parametrize("value", [-1e4, 1e4])
def test_cross_entropy_of_large_logits_is_finite(value):
    logit, label = np.full((1, 1, 2, 2, 2), value, np.float32), np.ones((1, 2, 2, 2), np.float32)
    found, gradient = ops.value_and_grad(build_loss("bce"))(Tensor(logit), Tensor(label))
    assert found.asnumpy() == pytest.approx(max(-value, 0))
    assert np.isfinite(gradient.asnumpy()).all()


def test_empty_label_and_saturated_logits_stay_finite():
    logits = np.zeros((1, 2, 2, 2, 2), np.float32)
    logits[:, 1] = -500
    for loss in (DiceLoss(), DiceCrossEntropyLoss()):
        value, gradient = ops.value_and_grad(loss)(Tensor(logits), Tensor(np.zeros((1, 2, 2, 2), np.float32)))
        assert np.isfinite(value.asnumpy())
        assert np.isfinite(gradient.asnumpy()).all()


def test_build_loss():
    assert isinstance(build_loss("dice"), DiceLoss)
    assert isinstance(build_loss("dice_ce"), DiceCrossEntropyLoss)
    assert isinstance(build_loss("bce"), BinaryCrossEntropyLoss)
    with pytest.raises(ValueError, match="dice, dice_ce"):
        build_loss("iou")
