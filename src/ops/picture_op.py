"""A two-dimensional unit's custom operators: what `picture_unit.cc` offers, with shapes, types and gradient.

Blocked pictures are (N, C/16, 1, H, W, 16) fp32 tensors: volumes of one plane.
"""

from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from src.ops.cpu.unit_op import LANES

MOST_INPUTS = 5  # kMostInputs of picture_unit.cc


@dataclass(frozen=True)
class PictureForm:
    """What distinguishes the units.

    Attributes:
        transposed: a transposed convolution, of one input.
        kernel: edge of the kernel; padding is (kernel - 1) // 2.
        stride: of the convolution.
        in_channels: of each input, which count as joined.
        channels: that the convolution gives, a multiple of 16.
        norm: whether batch norm follows; else a bias may.
        relu: whether a ReLU comes last.
        residual: whether a picture is added before it.
        image: the one input is a plain picture that needs no gradient.
    """

    transposed: bool
    kernel: int
    stride: int
    in_channels: tuple[int, ...]
    channels: int
    norm: bool
    relu: bool
    residual: bool
    image: bool

    def config(self) -> Tensor:
        """Return the operators' first input."""
        return Tensor(np.array([self.transposed, self.kernel, self.stride, self.norm, self.relu, self.residual],
                               np.int64))

    def out_shape(self, inputs: tuple[Any, ...], residual: Any) -> list[int]:
        """Return the shape of the unit's result.

        Raises:
            ValueError: the inputs, or the residual, have other sizes or channels than expected: the kernels read memory
                as they are told.
        """
        inputs = inputs[:len(self.in_channels)]
        first = inputs[0]
        size = list(first[2:4]) if self.image else list(first[3:5])
        for shape, channels in zip(inputs, self.in_channels, strict=True):
            wanted = [first[0], channels, *size] if self.image else [first[0], channels // LANES, 1, *size, LANES]
            if list(shape) != wanted:
                raise ValueError(f"picture unit: found an input of shape {list(shape)}, expected {wanted}")
        pad = (self.kernel - 1) // 2
        size = [n * self.stride if self.transposed else (n + 2 * pad - self.kernel) // self.stride + 1 for n in size]
        out = [first[0], self.channels // LANES, 1, *size, LANES]
        if self.residual and list(residual) != out:
            raise ValueError(f"picture unit: found a residual of shape {list(residual)}, expected {out}")
        return out


class PictureOp(nn.Cell):
    """The operators of one form of unit.

    Input: weight, bias, gamma, beta, moving mean, moving variance, residual, and the `MOST_INPUTS` inputs; what the
    form lacks is any tensor of one value. Moving mean and variance are updated in place in training. Output: the unit's
    result. There is no gradient at an image, and there are no second derivatives.

    Args:
        library: path of the kernel library.
        form: which unit.
        epsilon, momentum: of the batch norm; momentum weighs the old value.
    """

    def __init__(self, library: str, form: PictureForm, epsilon: float, momentum: float):
        super().__init__()
        self.config = form.config()
        self.constants = Tensor(np.array([epsilon, momentum], np.float32))
        keeps = form.norm or form.relu or form.residual
        statistics = [2, form.channels] if form.norm else [1]
        count = len(form.in_channels)

        def forward_shape(config: Any, constants: Any, weight: Any, bias: Any, gamma: Any, beta: Any, mean: Any,
                          variance: Any, residual: Any, *inputs: Any) -> Any:
            out = form.out_shape(inputs, residual)
            return out if keeps else [1], out, statistics

        def inference_shape(config: Any, constants: Any, weight: Any, bias: Any, gamma: Any, beta: Any, mean: Any,
                            variance: Any, residual: Any, *inputs: Any) -> Any:
            return form.out_shape(inputs, residual)

        def backward_shape(config: Any, dout: Any, weight: Any, bias: Any, y: Any, stats: Any, gamma: Any, beta: Any,
                           residual: Any, *inputs: Any) -> Any:
            found = [[1] if form.image or i >= count else shape for i, shape in enumerate(inputs)]
            return weight, bias, gamma, beta, residual, *found

        def one_type(*_: Any) -> Any:
            return ms.float32

        def three_types(*_: Any) -> Any:
            return (ms.float32,) * 3

        def all_types(*_: Any) -> Any:
            return (ms.float32,) * (5 + MOST_INPUTS)

        backward = ops.Custom(f"{library}:PictureBackward", backward_shape, all_types, "aot")

        def bprop(config: Any, constants: Any, weight: Any, bias: Any, gamma: Any, beta: Any, mean: Any, variance: Any,
                  residual: Any, a: Any, b: Any, c: Any, d: Any, e: Any, out: Any, dout: Any) -> Any:
            dweight, dbias, dgamma, dbeta, dresidual, da, db, dc, dd, de = backward(
                config, dout[1], weight, bias, out[0], out[2], gamma, beta, residual, a, b, c, d, e)
            if form.image:
                da = ops.zeros_like(a)
            return (ops.zeros_like(config), ops.zeros_like(constants), dweight, dbias, dgamma, dbeta,
                    ops.zeros_like(mean), ops.zeros_like(variance), dresidual, da, db, dc, dd, de)

        self.forward = ops.Custom(f"{library}:PictureForward", forward_shape, three_types, "aot", bprop)
        # The moving statistics are written in place.
        self.forward.add_prim_attr("side_effect_mem", True)
        self.inference = ops.Custom(f"{library}:PictureInference", inference_shape, one_type, "aot")
        # MindSpore takes operators with equal attributes for the same one, whatever their functions.
        for operator in (self.forward, backward, self.inference):
            operator.add_prim_attr("form", str(form))

    def construct(self, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor,
                  residual: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        a, b, c, d, e = inputs
        if not self.training:
            return self.inference(self.config, self.constants, weight, bias, gamma, beta, mean, variance, residual, a,
                                  b, c, d, e)
        return self.forward(self.config, self.constants, weight, bias, gamma, beta, mean, variance, residual, a, b, c,
                            d, e)[1]
