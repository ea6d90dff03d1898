"""The average of the weights against its recursion in float64, in checkpoints, and swapped into the network."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.backend import Backend
from src.checkpoint import load_checkpoint, load_parameters, save_checkpoint
from src.ops import ConvUnit
from src.overrides import load_recipe
from src.training.ema import EVERY, averaged_weights, build_average
from src.training.train_step import TrainStep
from tests.training.helpers import PointNetwork, SquareLoss

X = np.array([1.0, 2.0], np.float32).reshape(1, 1, 2, 1, 1)
LARGE = np.array([0.0, 1.5e19], np.float32).reshape(X.shape)  # its gradient overflows
LABEL = np.array([0.0, 3.0], np.float32).reshape(1, 2, 1, 1)


@pytest.fixture(autouse=True, scope="module")
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture(params=["stock", "kernels"])
def on_either_back_end(request):
    if request.param == "kernels":
        request.getfixturevalue("kernels_in_use")


def make_step(*overrides, network=None) -> TrainStep:
    recipe = load_recipe(overrides=["weight_decay=0", *overrides])
    step = TrainStep(network or PointNetwork(), SquareLoss(), recipe, Backend("CPU"))
    step.set_train()
    return step


def run(step, x=X) -> bool:
    return bool(step(Tensor(x), Tensor(LABEL), Tensor(0.1, ms.float32))[1].asnumpy())


def values(parameters) -> list[np.ndarray]:
    return [parameter.asnumpy().copy() for parameter in parameters]


class Follower:
    """The recursion in float64, fed with the network's weights after each applied update."""

    def __init__(self, step, decay: float):
        self.weights, self.decay, self.applied = step.average.weights, decay, 0
        self.expected = [value.astype(np.float64) for value in values(self.weights)]

    def follow(self) -> None:
        if self.applied % EVERY == 0:
            times = self.applied // EVERY
            share = 1 - min(self.decay**EVERY, (1 + times) / (10 + times))
            self.expected = [mean + share * (value - mean) for mean, value in
                             zip(self.expected, values(self.weights), strict=True)]
        self.applied += 1


@pytest.mark.usefixtures("on_either_back_end")
@pytest.mark.parametrize("decay", [0.999, 0.6])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_average_follows_its_recursion_and_skips_what_is_skipped(decay, optimizer):
    step = make_step(f"ema_decay={decay}", f"optimizer={optimizer}")
    follower = Follower(step, decay)
    before = values(step.average.averages)
    assert not run(step, LARGE)
    for mean, value in zip(values(step.average.averages), before, strict=True):
        np.testing.assert_array_equal(mean, value)
    for number in range(2 * EVERY + 2):
        if number == EVERY:
            assert not run(step, LARGE)  # is not counted either
        assert run(step)
        follower.follow()
        for mean, expected in zip(values(step.average.averages), follower.expected, strict=True):
            np.testing.assert_allclose(mean, expected, rtol=1e-6, atol=1e-7)
    assert step.average.updates.asnumpy() == follower.applied
    assert abs(values(step.average.averages)[0] - values(step.average.weights)[0]).max() > 1e-3


@pytest.mark.usefixtures("on_either_back_end")
def test_training_itself_is_the_same():
    with_average, without = make_step("ema_decay=0.99"), make_step()
    for _ in range(3):
        run(with_average), run(without)
    assert without.average is None
    assert not [p.name for p in without.get_parameters() if p.name.startswith("ema")]
    for a, b in zip(values(with_average.parameters), values(without.parameters), strict=True):
        np.testing.assert_array_equal(a, b)


class NormedNetwork(nn.Cell):
    """Two logits of a unit with batch norm."""

    def __init__(self):
        super().__init__()
        self.unit = ConvUnit(1, 2, 1)
        self.counter = ms.Parameter(Tensor(0, ms.int64), name="dropout.counter", requires_grad=False)

    def construct(self, x):
        return self.unit(x)


def test_moving_statistics_are_averaged_and_counters_are_not():
    step = make_step("ema_decay=0.5", network=NormedNetwork())
    names = [p.name for p in step.average.averages]
    assert names == [f"ema.unit.{name}" for name in ("conv.weight", "conv.bias", "norm.bn2d.moving_mean",
                                                     "norm.bn2d.moving_variance", "norm.bn2d.gamma",
                                                     "norm.bn2d.beta")]
    follower = Follower(step, 0.5)
    for _ in range(EVERY + 1):
        run(step)
        follower.follow()
    for name, mean, expected in zip(names, values(step.average.averages), follower.expected, strict=True):
        np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.usefixtures("on_either_back_end")
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    whole = make_step("ema_decay=0.9")
    for number in range(EVERY + 3):
        run(whole)
        if number == 2:
            save_checkpoint(tmp_path / "a.ckpt", whole, {"epoch": 1})
    checkpoint = load_checkpoint(tmp_path / "a.ckpt")
    assert {"ema.weight", "ema.bias", "ema_updates", "weight", "bias"} <= set(checkpoint.parameters)
    resumed = make_step("ema_decay=0.9", network=PointNetwork(7.0, 7.0))
    load_parameters(checkpoint, resumed, resume=True)
    for _ in range(EVERY):
        run(resumed)
    for a, b in zip(whole.get_parameters(), resumed.get_parameters(), strict=True):
        np.testing.assert_array_equal(a.asnumpy(), b.asnumpy(), err_msg=a.name)


def test_prediction_takes_the_average_and_says_so(tmp_path, caplog):
    caplog.set_level("INFO")
    step = make_step("ema_decay=0.9")
    for _ in range(3):
        run(step)
    save_checkpoint(tmp_path / "a.ckpt", step, {"epoch": 1})
    network = PointNetwork(7.0, 7.0)
    load_parameters(load_checkpoint(tmp_path / "a.ckpt"), network)
    np.testing.assert_array_equal(network.weight.asnumpy(), values(step.average.averages)[0])
    assert network.weight.asnumpy() != step.network.weight.asnumpy()
    assert caplog.text.count("a.ckpt: taking the averaged weights") == 1


@pytest.mark.usefixtures("on_either_back_end")
def test_the_average_is_in_the_network_within_the_context_only():
    class Logits(nn.Cell):
        def __init__(self, network):
            super().__init__(auto_prefix=False)
            self.network = network

        def construct(self, x):
            return ops.reduce_sum(self.network(x))

    step = make_step("ema_decay=0.9")
    logits = Logits(step.network)
    other = make_step("ema_decay=0.9")
    for _ in range(3):
        run(step), run(other)
    newest, averages = values(step.average.weights), values(step.average.averages)
    before = float(logits(Tensor(X)).asnumpy())
    with averaged_weights(step.average):
        # Sum of weight * x + bias over x = 1 and 2.
        expected = 3 * averages[0].item() + 2 * averages[1].item()
        assert float(logits(Tensor(X)).asnumpy()) == pytest.approx(expected, rel=1e-6)
    assert float(logits(Tensor(X)).asnumpy()) == before != pytest.approx(expected, rel=1e-4)
    for kept, expected_values in ((step.average.weights, newest), (step.average.averages, averages)):
        for a, b in zip(values(kept), expected_values, strict=True):
            np.testing.assert_array_equal(a, b)
    run(step), run(other)  # and training goes on as without
    for a, b in zip(step.get_parameters(), other.get_parameters(), strict=True):
        np.testing.assert_array_equal(a.asnumpy(), b.asnumpy(), err_msg=a.name)


def test_weights_come_back_when_validation_fails():
    step = make_step("ema_decay=0.9")
    run(step)
    newest = values(step.average.weights)
    with pytest.raises(RuntimeError), averaged_weights(step.average):
        raise RuntimeError("no case")
    for a, b in zip(values(step.average.weights), newest, strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_decay_no_average():
    assert build_average(PointNetwork(), {"ema_decay": 0.0}) is None
    assert build_average(PointNetwork(), {}) is None
    with averaged_weights(None):
        pass
