"""A moving average of the weights, which validation and prediction use in place of the newest ones."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from src.checkpoint import AVERAGE_PREFIX
from src.ops import select

EVERY = 4  # steps between two updates of the average


class WeightAverage(nn.Cell):
    """The exponential moving average of a network's weights over the updates of its training.

    Called after each step with whether its update was applied. After the first applied update and every `EVERY`-th from
    there on: average = d·average + (1 - d)·weight, with d = min(decay^EVERY, (1 + t) / (10 + t)) at the t-th time,
    counted from 0: by the second term the initial weights, which the average begins with, fade quickly (TensorFlow's
    ExponentialMovingAverage). That is a quarter of the passes over memory: with a decay of 0.999 the average spans some
    thousand steps, of which it takes every fourth.

    Batch norm's moving statistics are averaged alike: those of the newest weights fit other activations than the
    averaged weights give (Cai et al. 2021, "Exponential moving average normalization"). Dropout counters are not.

    Its parameters are named `ema.` and the weight's name, and a counter; checkpoints hold them.

    Args:
        network: whose parameters are averaged.
        decay: weight of the average against the newest weights at each step, above 0 and below 1.
    """

    def __init__(self, network: nn.Cell, decay: float):
        super().__init__(auto_prefix=False)
        self.decay = decay**EVERY
        weights = [p for p in network.get_parameters()
                   if p.requires_grad or p.name.endswith(("moving_mean", "moving_variance"))]
        self.weights = ParameterTuple(weights)
        self.averages = ParameterTuple([
            Parameter(Tensor(p.asnumpy().copy()), name=AVERAGE_PREFIX + p.name, requires_grad=False)
            for p in weights])
        self.updates = Parameter(Tensor(0, ms.int32), name="ema_updates", requires_grad=False)
        self.one = Tensor(1, ms.int32)
        self.map = ops.HyperMap()
        kernels = select.kernels()
        library = str(kernels.path) if kernels is not None and kernels.has_blocked else None
        self.fused: Any = None if library is None else _in_place(library, "AverageUpdate")
        self.swap = _Swap(self.averages, self.weights, library)

    def construct(self, applied: Tensor) -> Tensor:
        """Update the average where `applied` is true; returns a value to depend on."""
        done = self.updates + 0  # a copy: the counter changes below
        due = ops.logical_and(applied, done % EVERY == 0)
        ops.assign_add(self.updates, self.one * applied.astype(ms.int32))
        times = (done // EVERY).astype(ms.float32)
        share = 1.0 - ops.minimum((1.0 + times) / (10.0 + times), Tensor(self.decay, ms.float32))
        if self.fused is not None:
            return self.fused(share * due.astype(ms.float32), *self.averages, *self.weights)
        if due:
            self.map(ops.partial(_move, share), self.averages, self.weights)
        return share


def build_average(network: nn.Cell, recipe: Mapping[str, Any]) -> WeightAverage | None:
    """Return the average that the recipe's `ema_decay` asks for, None at 0."""
    decay = recipe.get("ema_decay", 0.0)
    return WeightAverage(network, decay) if decay > 0 else None


@contextlib.contextmanager
def averaged_weights(average: WeightAverage | None) -> Iterator[None]:
    """Let the network have its averaged weights within the context; afterwards the newest ones again, bit for bit.

    With None nothing changes.
    """
    if average is None:
        yield
        return
    average.swap()
    try:
        yield
    finally:
        average.swap()


class _Swap(nn.Cell):
    """Lets averages and weights change places; on the CPU kernels in their own memory."""

    def __init__(self, averages: ParameterTuple, weights: ParameterTuple, library: str | None):
        super().__init__(auto_prefix=False)
        self.averages, self.weights = averages, weights
        self.map = ops.HyperMap()
        self.fused: Any = None if library is None else _in_place(library, "AverageSwap")

    def construct(self) -> Tensor:
        if self.fused is not None:
            return self.fused(*self.averages, *self.weights)
        self.map(_exchange, self.averages, self.weights)
        return Tensor(0.0, ms.float32)


def _exchange(average: Parameter, weight: Parameter) -> Tensor:
    newest, averaged = weight + 0.0, average + 0.0
    ops.assign(weight, averaged)
    return ops.assign(average, newest)


def _move(share: Tensor, average: Parameter, weight: Parameter) -> Tensor:
    return ops.assign_add(average, share * (weight - average))


def _in_place(library: str, entry: str) -> ops.Custom:
    """Return an operator that changes parameters in place and gives one number to depend on."""
    def single(*_: Any) -> Any:
        return [1]

    def fp32(*_: Any) -> Any:
        return ms.float32

    operator = ops.Custom(f"{library}:{entry}", single, fp32, "aot")
    operator.add_prim_attr("side_effect_mem", True)
    return operator
