"""The compiled step against updates computed by hand on a network of two parameters."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.backend import Backend
from src.data.dataset import Batch
from src.losses import build_loss
from src.overrides import load_recipe
from src.training import train_step as module
from src.training.optimizer import build_optimizer
from src.training.train_step import TrainStep
from src.training.trainer import Trainer
from tests.training.helpers import PictureNetwork, PointNetwork, SquareLoss

X = np.array([1.0, 2.0], np.float32).reshape(1, 1, 2, 1, 1)
LABEL = np.array([0.0, 3.0], np.float32).reshape(1, 2, 1, 1)
# With weight 0.5, bias 0: logits 0.5 and 1, differences 0.5 and -2, so the gradients are
# weight: (0.5 * 1 - 2 * 2) / 2 = -1.75; bias: (0.5 - 2) / 2 = -0.75; loss (0.25 + 4) / 4.
GRADIENT = np.array([-1.75, -0.75])
LOSS = 1.0625


@pytest.fixture(autouse=True, scope="module")
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


def make_step(*overrides, loss_scaling="off", network=None) -> TrainStep:
    recipe = load_recipe(overrides=["weight_decay=0", *overrides])
    step = TrainStep(network or PointNetwork(), SquareLoss(), recipe, Backend("CPU", loss_scaling=loss_scaling))
    step.set_train()
    return step


def run(step: TrainStep, rate: float = 0.1, x: np.ndarray = X):
    loss, applied, norm, scale = (v.asnumpy().item() for v in step(Tensor(x), Tensor(LABEL), Tensor(rate, ms.float32)))
    values = np.array([step.network.weight.asnumpy().item(), step.network.bias.asnumpy().item()])
    return loss, applied, norm, scale, values


@pytest.mark.parametrize(("optimizer", "expected"), [
    # Adam's first step is rate * sign(gradient) but for epsilon; SGD's is rate * gradient.
    ("adam", np.array([0.6, 0.1])), ("adamw", np.array([0.6, 0.1])), ("sgd", np.array([0.675, 0.075]))])
def test_first_update(optimizer, expected):
    loss, applied, norm, scale, values = run(make_step(f"optimizer={optimizer}"))
    assert loss == pytest.approx(LOSS)
    assert (applied, scale) == (True, 1.0)
    assert norm == pytest.approx(np.hypot(1.75, 0.75))
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_adam_against_float64_over_several_steps():
    """Kingma and Ba 2015, algorithm 1, with a rate that changes."""
    step = make_step()
    parameters, first, second = np.array([0.5, 0.0]), np.zeros(2), np.zeros(2)
    x, label = X.ravel().astype(np.float64), LABEL.ravel().astype(np.float64)
    for t, rate in enumerate([0.1, 0.05, 0.2, 0.01], 1):
        difference = parameters[0] * x + parameters[1] - label
        gradient = np.array([(difference * x).mean(), difference.mean()])
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        parameters = parameters - rate * first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(run(step, rate)[-1], parameters, atol=2e-5)


def test_sgd_momentum():
    step = make_step("optimizer=sgd", "momentum=0.5")
    run(step)
    # Second step: velocity 0.5 * first gradient + second; by hand with weight 0.675, bias 0.075:
    # differences 0.75 and -1.575, gradients -1.2 and -0.4125, velocities -2.075 and -0.7875.
    np.testing.assert_allclose(run(step)[-1], [0.675 + 0.2075, 0.075 + 0.07875], atol=1e-6)


@pytest.mark.parametrize(("optimizer", "expected"), [
    # L2: the weight's gradient becomes -1.75 + 0.4 * 0.5; the bias does not decay.
    ("sgd", [0.5 + 0.1 * 1.55, 0.075]),
    # Adam's first step ignores the size of the gradient, so L2 changes nothing ...
    ("adam", [0.6, 0.1]),
    # ... while decoupled decay shrinks the weight by rate * decay first.
    ("adamw", [0.5 * (1 - 0.1 * 0.4) + 0.1, 0.1])])
def test_weight_decay(optimizer, expected):
    step = make_step(f"optimizer={optimizer}", "weight_decay=0.4")
    np.testing.assert_allclose(run(step)[-1], expected, atol=1e-6)


def test_gradient_clipping():
    norm = np.hypot(1.75, 0.75)
    *_, reported, _, values = run(make_step("optimizer=sgd", "grad_clip=0.5"))
    assert reported == pytest.approx(norm)  # before clipping
    np.testing.assert_allclose(values, np.array([0.5, 0.0]) - 0.1 * GRADIENT * 0.5 / norm, atol=1e-6)
    # A norm below the bound is left alone.
    np.testing.assert_allclose(run(make_step("optimizer=sgd", "grad_clip=5"))[-1], [0.675, 0.075], atol=1e-6)


def test_fixed_scale_leaves_the_update_as_it_is():
    step = make_step("optimizer=sgd", "loss_scale=64", loss_scaling="fixed")
    loss, applied, norm, scale, values = run(step)
    assert (scale, applied) == (64.0, True)
    assert loss == pytest.approx(LOSS)
    assert norm == pytest.approx(np.hypot(1.75, 0.75))
    np.testing.assert_allclose(values, [0.675, 0.075], atol=1e-6)


def test_dynamic_scale_halves_and_skips_on_overflow(monkeypatch):
    monkeypatch.setattr(module, "_GROWTH_INTERVAL", 3)
    # 1e38 times the scale overflows fp32 in the backward pass, while the loss itself is finite.
    step = make_step("optimizer=sgd", "loss_scale=1024", loss_scaling="dynamic")
    large = np.array([0.0, 1e19], np.float32).reshape(X.shape)
    before = run(step)[-1]
    loss, applied, _, scale, values = run(step, x=large)
    assert not applied
    assert np.isfinite(loss)
    assert scale == 1024
    assert np.array_equal(values, before)
    scales = [run(step)[3] for _ in range(5)]
    assert scales == [512, 512, 512, 1024, 1024]  # doubles after three good steps


def test_without_scaling_an_overflowing_gradient_is_skipped_too():
    step = make_step()
    large = np.array([0.0, 1.5e19], np.float32).reshape(X.shape)
    _, applied, norm, _, values = run(step, x=large)
    assert not applied
    assert not np.isfinite(norm)
    assert np.array_equal(values, [0.5, 0.0])


class OneConv(nn.Cell):
    """Logits (0.5 x, 0.5 x) of an image x."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 1, has_bias=False, weight_init=0.5)

    def construct(self, x):
        return self.conv(x)


@pytest.mark.parametrize(("device", "level", "expected"), [
    ("Ascend", "O2", ("O2",)), ("GPU", "O3", ("O3",)), ("Ascend", "bf16", ("O2", ms.bfloat16)),
    ("Ascend", "O0", None), ("CPU", "O0", None), ("CPU", "bf16", None)])
def test_precision_of_each_back_end(device, level, expected, monkeypatch):
    """What MindSpore is asked for; Ascend and GPU cannot be run here."""
    calls = []
    monkeypatch.setattr(module.amp, "auto_mixed_precision", lambda network, *rest: calls.append(rest) or network)
    network = OneConv()
    assert module.mixed_precision(network, Backend(device, amp_level=level)) is network
    assert calls == ([] if expected is None else [expected])


@pytest.mark.parametrize("level", ["O2", "O3"])
def test_overflows_of_half_precision_are_skipped_and_counted(level):
    """fp16 ends at 65504: the weight's gradient, 1.79, overflows at scales from 2^20 down to 2^16, five steps."""
    class Loader:
        steps_per_epoch, world_size = 8, 1

        def epoch(self, epoch):
            for _ in range(self.steps_per_epoch):
                yield Batch(np.float32(1.1) * X, LABEL, ("Case00",))

    recipe = load_recipe(overrides=["optimizer=sgd", "weight_decay=0", "loss_scale=1048576", "epochs=1", "momentum=0",
                                    "warmup_step=0"])
    network = OneConv()
    step = TrainStep(network, SquareLoss(), recipe, Backend("CPU", amp_level=level, loss_scaling="dynamic"))
    trainer = Trainer(step, Loader(), 0.01, recipe)
    state = trainer.fit()
    assert (state.step, state.skipped_steps) == (8, 5)
    assert step.loss_scale.asnumpy() == 2**15
    assert network.conv.weight.dtype == ms.float32
    assert 0.5 < network.conv.weight.asnumpy().ravel()[1] < 0.6


def test_half_precision_keeps_fp32_weights_and_learns_the_same():
    """O2 runs the layers in fp16; the weights stay fp32, and one scaled SGD step agrees to fp16's precision."""
    updates = []
    for level in ("O0", "O2"):
        network = OneConv()
        step = TrainStep(network, SquareLoss(), load_recipe(overrides=["optimizer=sgd", "weight_decay=0"]),
                         Backend("CPU", amp_level=level, loss_scaling="dynamic"))
        step.set_train()
        # 1.1 is no fp16 number, so that rounding shows.
        _, applied, *_ = step(Tensor(np.float32(1.1) * X), Tensor(LABEL), Tensor(0.1, ms.float32))
        assert applied.asnumpy()
        assert network.conv.weight.dtype == ms.float32
        updates.append(network.conv.weight.asnumpy().ravel())
    # Only the second output counts in the loss. Differences 0.55 and 1.1 - 3, gradient (0.55 * 1.1 - 1.9 * 2.2) / 2.
    np.testing.assert_allclose(updates[0], [0.5, 0.5 + 0.1 * 1.7875], atol=1e-6)
    np.testing.assert_allclose(updates[1], updates[0], atol=1e-3)
    assert not np.array_equal(updates[0], updates[1])  # fp16 was really used


@pytest.mark.parametrize(("level", "served"), [("O0", False), ("O0", True), ("O2", False)])
def test_heads_of_pictures_are_trained_together(level, served, request):
    """The mean of the cross-entropies of three heads, logits k times weight times the channels' sum."""
    if served:
        request.getfixturevalue("kernels_in_use")
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
    label = (rng.random((2, 5, 4)) > 0.5).astype(np.float32)
    recipe = load_recipe("unet2d_lgg", overrides=["loss=bce", "optimizer=sgd"])
    network = PictureNetwork(0.5)
    step = TrainStep(network, build_loss(recipe), recipe, Backend("CPU", amp_level=level, loss_scaling="fixed"))
    step.set_train()
    loss, applied, *_ = step(Tensor(image), Tensor(label), Tensor(0.1, ms.float32))
    total = image.sum(axis=1, dtype=np.float64)
    logits = [k * 0.5 * total for k in (1, 2, 3)]
    expected = np.mean([(np.logaddexp(0, z) - label * z).mean() for z in logits])
    gradient = np.mean([(k * total * (1 / (1 + np.exp(-z)) - label)).mean() for k, z in zip((1, 2, 3), logits,
                                                                                          strict=True)])
    tolerance = 1e-5 if level == "O0" else 2e-3
    assert applied.asnumpy()
    assert loss.asnumpy() == pytest.approx(expected, rel=tolerance)
    assert network.weight.asnumpy().item() == pytest.approx(0.5 - 0.1 * gradient, rel=tolerance)


def test_parameters_hold_all_that_a_checkpoint_needs():
    names = [p.name for p in make_step().get_parameters()]
    assert len(names) == len(set(names))
    assert {"weight", "bias", "moment1.weight", "moment2.bias", "global_step", "learning_rate", "loss_scale",
            "good_steps", "beta1_power"} <= set(names)


def test_ranks_reduce_before_they_clip(monkeypatch):
    """Loss and gradients pass the mean over ranks first; here one that doubles them."""
    class Doubling(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            self.map = ops.HyperMap()

        def construct(self, gradients, loss):
            return self.map(_double, gradients), 2 * loss

    monkeypatch.setattr(module, "build_mean", lambda parameters, backend: Doubling())
    recipe = load_recipe(overrides=["weight_decay=0", "optimizer=sgd"])
    step = TrainStep(PointNetwork(), SquareLoss(), recipe, Backend("CPU", world_size=2))
    step.set_train()
    loss, _, norm, _, _ = run(step)
    assert (loss, norm) == (pytest.approx(2 * LOSS), pytest.approx(2 * np.hypot(1.75, 0.75)))
    np.testing.assert_allclose([step.network.weight.asnumpy().item()], [0.5 + 0.1 * 3.5], atol=1e-6)


def _double(gradient):
    return gradient * 2


def test_unknown_optimizer():
    with pytest.raises(ValueError, match="adam, adamw or sgd"):
        build_optimizer({**load_recipe(), "optimizer": "lion"}, PointNetwork())
