"""Losses against hand-computed values and a float64 reference."""

import numpy as np
import pytest
from mindspore import Tensor, ops

from src.losses import LOSSES, DeepSupervisionLoss, SegmentationLoss, build_loss
from src.overrides import load_recipe


def make(name: str, **settings):
    return build_loss({"loss": name, **settings})


def call(loss, logits: np.ndarray, label: np.ndarray) -> float:
    return float(loss(Tensor(logits.astype(np.float32)), Tensor(label.astype(np.float32))).asnumpy())


def logits_of(*probabilities: np.ndarray) -> np.ndarray:
    """Return logits whose softmax gives the probabilities (N, ...) for the classes 1 and up."""
    return np.log(np.stack([1 - sum(probabilities), *probabilities], axis=1))


def voxel_terms(logits: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return p and g (N, C, voxels), and the log-probability of each voxel's class (N, voxels), in float64."""
    z = logits.astype(np.float64).reshape(*logits.shape[:2], -1)
    log_p = z - np.logaddexp.reduce(z, axis=1)[:, None]
    g = (label.reshape(len(z), 1, -1) == np.arange(z.shape[1])[None, :, None]).astype(np.float64)
    return np.exp(log_p), g, (g * log_p).sum(1)


def reference(name: str, logits: np.ndarray, label: np.ndarray, over="sample", gamma=2.0, alpha=0.3,
              beta=0.7, share=0.5) -> float:
    p, g, log_own = voxel_terms(logits, label)
    region, voxel = LOSSES[name]
    axes = (2,) if over == "sample" else (0, 2)
    overlap = (p * g)[:, 1:].sum(axes)
    if region == "dice":
        ratio = 2 * overlap / ((p**2)[:, 1:].sum(axes) + (g**2)[:, 1:].sum(axes) + 1e-5)
    elif region == "iou":
        ratio = overlap / (p[:, 1:].sum(axes) + g[:, 1:].sum(axes) - overlap + 1e-5)
    else:
        ratio = overlap / (overlap + alpha * (p * (1 - g))[:, 1:].sum(axes) + beta * ((1 - p) * g)[:, 1:].sum(axes)
                           + 1e-5)
    of_region, of_voxel = (1 - share, share) if name == "bce_dice" else (1, 1)
    total = 0.0 if region == "none" else of_region * np.mean(1 - ratio)
    if voxel == "cross_entropy":
        total += -of_voxel * log_own.mean()
    if voxel == "focal":
        total += -((1 - np.exp(log_own)) ** gamma * log_own).mean()
    return float(total)


@pytest.fixture(params=["stock", "kernels"])
def on_either_back_end(request):
    if request.param == "kernels":
        request.getfixturevalue("kernels_in_use")


@pytest.mark.usefixtures("on_either_back_end")
class TestByHand:
    def test_dice(self):
        probability, label = np.full((1, 1, 2, 2), 0.5), np.array([1, 0, 0, 0]).reshape(1, 1, 2, 2)
        # Overlap 0.5, sizes 4 * 0.25 and 1: 1 - 2 * 0.5 / 2.
        assert call(make("dice"), logits_of(probability), label) == pytest.approx(0.5, abs=1e-5)

    def test_dice_is_the_mean_over_the_foreground_classes(self):
        label = np.array([1, 0, 2, 2]).reshape(1, 1, 2, 2)
        one, two = (np.full((1, 1, 2, 2), value) for value in (0.5, 0.25))
        # Class 1: overlap 0.5, sizes 4 * 0.25 + 1 = 2, Dice 0.5. Class 2: 0.5, 4 / 16 + 2 = 2.25, Dice 1 / 2.25.
        expected = 1 - (0.5 + 1 / 2.25) / 2
        assert call(make("dice"), logits_of(one, two), label) == pytest.approx(expected, abs=1e-5)

    def test_tversky_weighs_false_positives_and_false_negatives(self):
        probability, label = np.full((1, 1, 2, 2), 0.25), np.array([1, 0, 0, 0]).reshape(1, 1, 2, 2)
        # Overlap 0.25, false positives 0.75, false negatives 0.75.
        for alpha, beta, size in ((0.5, 0.5, 1.0), (1.0, 0.0, 1.0), (0.2, 0.6, 0.85)):
            loss = make("tversky", tversky_alpha=alpha, tversky_beta=beta)
            assert call(loss, logits_of(probability), label) == pytest.approx(1 - 0.25 / size, abs=1e-5)

    def test_iou(self):
        probability, label = np.full((1, 2, 2), 0.5), np.array([1, 0, 0, 0]).reshape(1, 2, 2)
        # Overlap 0.5, sizes 4 * 0.5 and 1: 1 - 0.5 / (2 + 1 - 0.5).
        assert call(make("iou"), logits_of(probability), label) == pytest.approx(0.8, abs=1e-5)
        # Of masks without doubt it is 1 - IoU: 1 of 3 pixels is in both.
        mask = np.array([1, 1, 0, 0]).reshape(1, 2, 2), np.array([1, 0, 1, 0]).reshape(1, 2, 2)
        logits = np.where(mask[0], 40.0, -40.0)[:, None]
        assert call(make("iou"), logits, mask[1]) == pytest.approx(2 / 3, abs=1e-5)

    def test_bce_dice_weighs_both(self):
        probability, label = np.full((1, 2, 2), 0.5), np.array([1, 0, 0, 0]).reshape(1, 2, 2)
        for share in (0.0, 0.25, 1.0):  # Dice 0.5 as above, and log 2 at each pixel
            loss = make("bce_dice", bce_weight=share)
            expected = share * np.log(2) + (1 - share) * 0.5
            assert call(loss, logits_of(probability), label) == pytest.approx(expected, abs=1e-5)

    def test_focal(self):
        probability, label = np.array([0.5, 0.1]).reshape(1, 1, 1, 2), np.array([1, 0]).reshape(1, 1, 1, 2)
        for gamma in (0.0, 1.0, 2.0, 0.5):
            expected = (0.5**gamma * -np.log(0.5) + 0.1**gamma * -np.log(0.9)) / 2
            loss = make("focal", focal_gamma=gamma)
            assert call(loss, logits_of(probability), label) == pytest.approx(expected, rel=1e-5)

    def test_samples_are_pooled_only_over_the_batch(self):
        probability = np.stack([np.full((2, 2, 2), 1 - 1e-6), np.full((2, 2, 2), 1e-6)])
        label = np.ones((2, 2, 2, 2))
        # Dice 1 and 0 for the two samples; of the batch 2 * 8 / (8 + 16). Tversky's index 1 and 0; 8 / (8 + 0.7 * 8).
        for name, over, expected in (("dice", "sample", 1 / 2), ("dice", "batch", 1 / 3),
                                     ("tversky", "sample", 1 / 2), ("tversky", "batch", 0.7 / 1.7)):
            loss = make(name, dice_over=over)
            assert call(loss, logits_of(probability), label) == pytest.approx(expected, abs=1e-4)

    def test_over_the_batch_a_sample_without_the_class_has_a_gradient(self):
        label = np.stack([np.ones((2, 2, 2)), np.zeros((2, 2, 2))]).astype(np.float32)
        logits = Tensor(np.zeros((2, 2, 2, 2, 2), np.float32))
        sample, batch = (ops.grad(make("dice", dice_over=over))(logits, Tensor(label)).asnumpy()
                         for over in ("sample", "batch"))
        assert np.abs(sample[1]).max() == 0
        assert (batch[1, 1] > 0).all()


@pytest.mark.usefixtures("on_either_back_end")
@pytest.mark.parametrize("channels", [1, 2])
class TestPictures:
    """Logits (N, K, H, W) of odd sizes, one of the pictures without foreground, or all."""

    def logits_and_label(self, channels):
        rng = np.random.default_rng(4)
        label = (rng.random((3, 7, 9)) > 0.7).astype(np.float32)
        label[1] = 0
        return rng.normal(size=(3, channels, 7, 9)).astype(np.float32), label

    def two(self, logits):
        return logits if logits.shape[1] == 2 else np.concatenate([np.zeros_like(logits), logits], axis=1)

    @pytest.mark.parametrize("over", ["sample", "batch"])
    def test_values(self, over, channels):
        logits, label = self.logits_and_label(channels)
        for name in LOSSES:
            loss = make(name, dice_over=over, bce_weight=0.3)
            for mask in (label, np.zeros_like(label)):
                expected = reference(name, self.two(4 * logits), mask, over, share=0.3)
                assert call(loss, 4 * logits, mask) == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("name", ["dice", "iou", "bce_dice", "focal"])
    def test_gradient_against_finite_differences(self, name, channels):
        logits, label = self.logits_and_label(channels)
        gradient = ops.grad(make(name, dice_over="batch"))(Tensor(logits), Tensor(label)).asnumpy()
        assert gradient.shape == logits.shape
        for place in [(0, 0, 0, 0), (1, channels - 1, 6, 8), (2, 0, 3, 5)]:
            step = np.zeros_like(logits, dtype=np.float64)
            step[place] = 1e-4
            up, down = (reference(name, self.two(logits + sign * step), label, "batch") for sign in (1, -1))
            assert gradient[place] == pytest.approx((up - down) / 2e-4, abs=1e-6)

    @pytest.mark.parametrize("name", ["dice", "iou", "bce_dice"])
    def test_without_any_foreground_only_cross_entropy_teaches(self, name, channels):
        """A ratio without foreground is 0 for whatever is predicted: the loss over regions is 1, its gradient 0."""
        logits, label = self.logits_and_label(channels)
        loss = make(name, dice_over="batch")
        value, gradient = ops.value_and_grad(loss)(Tensor(logits), Tensor(np.zeros_like(label)))
        if LOSSES[name][1] == "none":
            assert value.asnumpy() == 1
            assert np.abs(gradient.asnumpy()).max() == 0
        else:
            assert (gradient.asnumpy()[:, -1] > 0).all()  # down with the foreground's logit


@pytest.mark.usefixtures("on_either_back_end")
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", LOSSES)
class TestAgainstFloat64:
    @pytest.mark.parametrize("over", ["sample", "batch"])
    def test_values(self, name, classes, over):
        rng = np.random.default_rng(0)
        label = rng.integers(0, classes, (3, 4, 3, 5))
        for scale in (1.0, 30.0, 1000.0):
            logits = (scale * rng.normal(size=(3, classes, 4, 3, 5))).astype(np.float32)
            expected = reference(name, logits, label, over, 1.5, 0.2, 0.9)
            loss = make(name, dice_over=over, focal_gamma=1.5, tversky_alpha=0.2, tversky_beta=0.9)
            assert call(loss, logits, label) == pytest.approx(expected, rel=1e-5, abs=1e-5)

    @pytest.mark.parametrize("over", ["sample", "batch"])
    def test_gradient_against_finite_differences(self, name, classes, over):
        rng = np.random.default_rng(1)
        logits = rng.normal(size=(2, classes, 2, 2, 2)).astype(np.float32)
        label = rng.integers(0, classes, (2, 2, 2, 2)).astype(np.float32)
        gradient = ops.grad(make(name, dice_over=over))(Tensor(logits), Tensor(label)).asnumpy()
        for place in [(0, 0, 0, 0, 0), (1, 1, 1, 0, 1), (1, classes - 1, 0, 1, 1)]:
            step = np.zeros_like(logits, dtype=np.float64)
            step[place] = 1e-4
            up, down = (reference(name, logits + sign * step, label, over) for sign in (1, -1))
            assert gradient[place] == pytest.approx((up - down) / 2e-4, abs=1e-5)

    def test_nan_reaches_the_loss_and_extremes_do_not_make_any(self, name, classes):
        logits, label = np.zeros((1, classes, 2, 2, 2), np.float32), np.zeros((1, 2, 2, 2), np.float32)
        loss = make(name)
        logits[:, 1] = -500
        value, gradient = ops.value_and_grad(loss)(Tensor(logits), Tensor(label))
        assert np.isfinite(value.asnumpy())
        assert np.isfinite(gradient.asnumpy()).all()
        logits[0, 1, 0, 1, 0] = np.nan
        assert np.isnan(call(loss, logits, label))


@pytest.mark.parametrize("served", [False, True])
def test_a_lone_logit_is_that_of_the_foreground(served, request):
    if served:
        request.getfixturevalue("kernels_in_use")
    rng = np.random.default_rng(2)
    logit = (5 * rng.normal(size=(2, 1, 3, 4, 5))).astype(np.float32)
    label = (rng.random((2, 3, 4, 5)) > 0.6).astype(np.float32)
    both = np.concatenate([np.zeros_like(logit), logit], axis=1)
    for name in LOSSES:
        assert call(make(name), logit, label) == pytest.approx(reference(name, both, label), rel=1e-5)
    # By hand: the gradient of the mean cross-entropy is (sigmoid(logit) - label) / count.
    gradient = ops.grad(make("bce"))(Tensor(logit), Tensor(label)).asnumpy()
    np.testing.assert_allclose(gradient[:, 0], (1 / (1 + np.exp(-logit[:, 0])) - label) / label.size, atol=1e-7)


@pytest.mark.parametrize("value", [-1e4, 1e4])
def test_cross_entropy_of_large_logits_is_finite(value):
    logit, label = np.full((1, 1, 2, 2, 2), value, np.float32), np.ones((1, 2, 2, 2), np.float32)
    found, gradient = ops.value_and_grad(make("bce"))(Tensor(logit), Tensor(label))
    assert found.asnumpy() == pytest.approx(max(-value, 0))
    assert np.isfinite(gradient.asnumpy()).all()


def test_settings_reach_the_loss():
    loss = build_loss(load_recipe(overrides=["loss=tversky", "dice_over=batch", "tversky_alpha=0.4",
                                             "tversky_beta=0.6"]))
    assert isinstance(loss, SegmentationLoss)
    assert (loss.region, loss.voxel, loss.over_batch, loss.alpha, loss.beta) == ("tversky", "none", True, 0.4, 0.6)
    loss = build_loss(load_recipe(overrides=["loss=dice_focal", "focal_gamma=3"]))
    assert (loss.region, loss.voxel, loss.over_batch, loss.sums.gamma) == ("dice", "focal", False, 3.0)
    assert make("bce").two_sums is not None  # two classes go the faster way where it has all sums
    with pytest.raises(ValueError, match="dice, dice_ce"):
        make("hinge")


def test_settings_of_pictures_reach_the_loss():
    for recipe, changes, parts, weights in (
            ("unet2d_lgg", [], ("dice", "none"), (1, 1)), ("unet2d_lgg", ["loss=iou"], ("iou", "none"), (1, 1)),
            ("unet2d_lgg", ["loss=bce_dice", "bce_weight=0.2"], ("dice", "cross_entropy"), (0.8, 0.2)),
            ("unet2d_drive", [], ("none", "cross_entropy"), (1, 1))):
        loss = build_loss(load_recipe(recipe, overrides=changes))
        assert isinstance(loss, DeepSupervisionLoss)  # which takes the heads of a U-Net++, and single logits as well
        assert (loss.loss.region, loss.loss.voxel) == parts
        assert (loss.loss.region_weight, loss.loss.voxel_weight) == weights
        assert loss.loss.over_batch


@pytest.mark.usefixtures("on_either_back_end")
def test_deep_supervision_is_the_weighted_mean_over_the_resolutions():
    rng = np.random.default_rng(3)
    label = rng.integers(0, 3, (2, 16, 16, 8)).astype(np.float32)
    outputs = [rng.normal(size=(2, 3, 16 // n, 16 // n, 8 // n)).astype(np.float32) for n in (1, 2, 4, 8)]
    # The label next to the centre of each coarse voxel, above it.
    labels = [label, label[:, 1::2, 1::2, 1::2], label[:, 2::4, 2::4, 2::4], label[:, 4::8, 4::8, 4::8]]
    each = [reference("dice_ce", z, y) for z, y in zip(outputs, labels, strict=True)]
    expected = np.dot(each, np.array([8, 4, 2, 1]) / 15)
    loss = make("dice_ce", deep_supervision=True)
    assert isinstance(loss, DeepSupervisionLoss)
    found = loss(tuple(Tensor(z) for z in outputs), Tensor(label)).asnumpy()
    assert found == pytest.approx(expected, rel=1e-5)
    assert call(loss, outputs[0], label) == pytest.approx(each[0], rel=1e-5)  # as in validation


@pytest.mark.usefixtures("on_either_back_end")
def test_heads_of_full_size_weigh_the_same():
    """As those of a U-Net++: the mean of their losses, and half of each one's own gradient."""
    rng = np.random.default_rng(5)
    label = (rng.random((2, 8, 6)) > 0.5).astype(np.float32)
    heads = tuple(Tensor(rng.normal(size=(2, 1, 8, 6)).astype(np.float32)) for _ in range(2))
    loss, single = (make("bce_dice", dice_over="batch", deep_supervision=several) for several in (True, False))
    value, gradients = ops.value_and_grad(lambda *z: loss(z, Tensor(label)), grad_position=(0, 1))(*heads)
    own = [ops.value_and_grad(single)(z, Tensor(label)) for z in heads]
    assert value.asnumpy() == pytest.approx(np.mean([loss.asnumpy() for loss, _ in own]), rel=1e-6)
    for gradient, (_, expected) in zip(gradients, own, strict=True):
        np.testing.assert_allclose(gradient.asnumpy(), expected.asnumpy() / 2, rtol=1e-5, atol=1e-9)


def test_coarser_heads_of_pictures_see_the_pixel_beside_their_centre():
    label = np.zeros((1, 6, 6), np.float32)
    label[0, 1, 1] = 1  # of 3 x 3 pixels the centre, of 2 x 2 the one above it
    full = Tensor(np.zeros((1, 1, 6, 6), np.float32))
    loss = make("bce", deep_supervision=True)
    for step in (2, 3):
        coarse = np.zeros((1, 1, 6 // step, 6 // step), np.float32)
        coarse[0, 0, 0, 0] = 2
        # log 2 at full size; and at the coarse pixel of class 1 softplus(2) - 2, log 2 at the others.
        pixels = coarse.size
        of_coarse = (np.logaddexp(0, 2) - 2 + (pixels - 1) * np.log(2)) / pixels
        expected = (np.log(2) + of_coarse / step) / (1 + 1 / step)
        assert loss((full, Tensor(coarse)), Tensor(label)).asnumpy() == pytest.approx(expected, rel=1e-6)
