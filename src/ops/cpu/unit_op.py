"""A unit's custom operators: what `units.cc` offers, with shapes, types and gradient.

Blocked volumes are (N, C/16, X, Y, Z, 16) tensors of the storage type, fp32 or bf16.
"""

from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from src.ops.select import UnitOptions

LANES = 16
# The order of the enumerations in units.cc and kernels.h.
KINDS = ("same", "down", "up", "input", "output")
RESIDUALS = ("none", "given", "own", "image")
NORMS = ("none", "batch", "instance")
ALGORITHMS = ("auto", "direct", "winograd")
_ACTIVATIONS = ("none", "elu", "prelu")


def storage_type(storage: str) -> Any:
    """Return MindSpore's type for the name of a storage."""
    return {"float32": ms.float32, "bfloat16": ms.bfloat16}[storage]


@dataclass(frozen=True)
class UnitForm:
    """What distinguishes the units.

    Attributes:
        kind: `same` 5³ at one size, `down` 2³ with stride 2, `up` its transpose, `input` 5³ from one plain channel,
            `output` to a few plain channels.
        kernel: edge of the kernel.
        channels: that the convolution gives.
        norm: whether batch norm follows.
        act: activation after it, and `residual_act` the one after the residual sum.
        residual: what is added: nothing, a given volume, the unit's own input, or the network's image.
        joined: a skip connection's volume follows in the output's channels.
        instance: whether the norm takes the statistics of each sample by itself, in evaluation too.
    """

    kind: str
    kernel: int
    channels: int
    norm: bool
    act: str
    residual: str
    residual_act: str
    joined: bool
    instance: bool = False

    def config(self, algorithm: str) -> Tensor:
        """Return the operators' first input; `algorithm` is one of `ALGORITHMS`."""
        norm = NORMS.index("none" if not self.norm else "instance" if self.instance else "batch")
        return Tensor(np.array([KINDS.index(self.kind), self.kernel, norm, _ACTIVATIONS.index(self.act),
                                _ACTIVATIONS.index(self.residual_act), RESIDUALS.index(self.residual), self.joined,
                                ALGORITHMS.index(algorithm)], np.int64))

    def check(self, x: list[int], residual: list[int], weight: list[int]) -> None:
        """Check the shapes of a call: the kernels read memory as they are told.

        Raises:
            ValueError: x has other channels than the weight, or the residual or skip volume another size than the
                result.
        """
        channels = x[1] if self.kind == "input" else x[1] * LANES
        expected = weight[0] if self.kind == "up" else weight[1]
        if channels != expected:
            raise ValueError(f"convolution: found an input of {channels} channels, expected {expected}")
        out = self.convolved_shape(x)
        if self.joined and residual[0:1] + residual[2:] != out[0:1] + out[2:]:
            raise ValueError(f"skip connection: found a volume of shape {residual}, expected the size of {out}")
        if self.residual == "given" and residual != out:
            raise ValueError(f"residual: found a volume of shape {residual}, expected {out}")
        if self.residual == "own" and list(x) != out:
            raise ValueError(f"residual: the unit's input {list(x)} has to have the shape of its result {out}")

    def convolved_shape(self, x: list[int]) -> list[int]:
        """Return the shape of the convolution's result for an input of shape `x`.

        Raises:
            ValueError: a size to be halved is odd.
        """
        size = list(x[2:5])
        if self.kind == "down":
            if any(n % 2 for n in size):
                raise ValueError(f"convolution of stride 2: found size {size}, expected even numbers")
            size = [n // 2 for n in size]
        if self.kind == "up":
            size = [2 * n for n in size]
        if self.kind == "output":
            return [x[0], self.channels, *size]
        return [x[0], self.channels // LANES, *size, LANES]

    def out_shape(self, x: list[int], residual: list[int]) -> list[int]:
        """Return the shape of the unit's result for an input of shape `x` and a skip volume of shape `residual`."""
        shape = self.convolved_shape(x)
        if self.joined:
            shape[1] += residual[1]
        return shape


class UnitOp(nn.Cell):
    """The operators of one form of unit.

    Input: x, residual (or skip), keep, weight, bias, gamma, beta, moving mean, moving variance, and the slopes of the
    two activations; parts that the form lacks are any tensor of one value. Moving mean and variance are updated in
    place in training, but for instance norm, which has none. Output: the unit's result.

    One backward pass a forward pass: of the `same` and `output` forms UnitBackward writes the gradient at the
    convolution's result over that result, which saves a volume a unit. `ops.GradOperation`, `value_and_grad`
    and `ms.vjp` called from Python are right in both modes, since each of their calls runs the network forward anew.
    What is refused with an error: `_, vjp = ms.vjp(network, x)` inside of a compiled graph with two calls of that
    `vjp`, for they share one forward pass. Take `ops.GradOperation(sens_param=True)` twice instead. There are no second
    derivatives.

    Args:
        library: path of the kernel library.
        form: which unit.
        options: storage of blocked volumes, and algorithm of the 5³ convolutions.
        epsilon, momentum: of the batch norm, as MindSpore's BatchNorm has them.
    """

    def __init__(self, library: str, form: UnitForm, options: UnitOptions, epsilon: float, momentum: float):
        super().__init__()
        self.config = form.config(options.algorithm)
        self.constants = Tensor(np.array([epsilon, momentum], np.float32))
        out_type = ms.float32 if form.kind == "output" else storage_type(options.storage)
        channels = form.channels

        def forward_shape(config: Any, constants: Any, x: Any, residual: Any, keep: Any, weight: Any, *_: Any) -> Any:
            form.check(x, residual, weight)
            kept = form.convolved_shape(x) if form.kind in ("same", "output") else [1]
            statistics = [2, channels] if form.norm else [1]
            return kept, form.out_shape(x, residual), [x[0], *statistics] if form.instance else statistics

        def forward_type(*_: Any) -> Any:
            return out_type, out_type, ms.float32

        def inference_shape(config: Any, constants: Any, x: Any, residual: Any, keep: Any, weight: Any, *_: Any) -> Any:
            form.check(x, residual, weight)
            return form.out_shape(x, residual)

        def inference_type(*_: Any) -> Any:
            return out_type

        # Parts without a gradient come back as one value, which costs nothing.
        def backward_shape(config: Any, dout: Any, x: Any, residual: Any, keep: Any, weight: Any, bias: Any, y: Any,
                           stats: Any, gamma: Any, beta: Any, slope: Any, slope2: Any) -> Any:
            dx = [1] if form.kind == "input" else x
            dresidual = residual if form.residual == "given" or form.joined else [1]
            return dx, dresidual, weight, bias, gamma, beta, slope, slope2

        def backward_type(config: Any, dout: Any, x: Any, residual: Any, *_: Any) -> Any:
            return (x, residual) + (ms.float32,) * 6

        # Writes over its input y; see above.
        backward = ops.Custom(f"{library}:UnitBackward", backward_shape, backward_type, "aot")

        def bprop(config: Any, constants: Any, x: Any, residual: Any, keep: Any, weight: Any, bias: Any, gamma: Any,
                  beta: Any, mean: Any, variance: Any, slope: Any, slope2: Any, out: Any, dout: Any) -> Any:
            dx, dresidual, dweight, dbias, dgamma, dbeta, dslope, dslope2 = backward(
                config, dout[1], x, residual, keep, weight, bias, out[0], out[2], gamma, beta, slope, slope2)
            if form.kind == "input":
                dx = ops.zeros_like(x)
            if form.residual != "given" and not form.joined:
                dresidual = ops.zeros_like(residual)
            return (ops.zeros_like(config), ops.zeros_like(constants), dx, dresidual, ops.zeros_like(keep), dweight,
                    dbias, dgamma, dbeta, ops.zeros_like(mean), ops.zeros_like(variance), dslope, dslope2)

        self.forward = ops.Custom(f"{library}:UnitForward", forward_shape, forward_type, "aot", bprop)
        # The moving statistics are written in place.
        self.forward.add_prim_attr("side_effect_mem", True)
        self.inference = ops.Custom(f"{library}:UnitInference", inference_shape, inference_type, "aot")
        # MindSpore takes operators with equal attributes for the same one, whatever their functions.
        for operator in (self.forward, backward, self.inference):
            operator.add_prim_attr("form", f"{form} {options}")

    def construct(self, x: Tensor, residual: Tensor, keep: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor,
                  beta: Tensor, mean: Tensor, variance: Tensor, slope: Tensor, slope2: Tensor) -> Tensor:
        if not self.training:
            return self.inference(self.config, self.constants, x, residual, keep, weight, bias, gamma, beta, mean,
                                  variance, slope, slope2)
        return self.forward(self.config, self.constants, x, residual, keep, weight, bias, gamma, beta, mean, variance,
                            slope, slope2)[1]
