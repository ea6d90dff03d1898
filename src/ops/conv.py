"""Convolutions of any kernel, stride and padding: oneDNN's on CPU where the kernels could be built, else MindSpore's.

Each cell is MindSpore's own with another `construct`, so parameters, their names and initial values are the same.
Which it is gets decided when the cell is made. Volumes are plain (N, C, ...) fp32.
"""

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from src.ops.select import kernels


class ConvOp(nn.Cell):
    """A convolution or its transpose as custom operators, with gradients. Input (N, C, ...), weight, bias if any.

    Args:
        library: path of the kernel library.
        transposed: the weight is then (in, out, k...), otherwise (out, in, k...).
        weight_shape: of the weight.
        stride: a number for each axis.
        padding: begin and end of each axis, as (front, back, top, bottom, left, right); None for pad mode "same".
        extra: what is added to the end of each axis of a transposed convolution's output ("output padding").
        has_bias: whether a bias is given.
    """

    def __init__(self, library: str, transposed: bool, weight_shape: Sequence[int], stride: Sequence[int],
                 padding: Sequence[int] | None, extra: Sequence[int], has_bias: bool):
        super().__init__()
        kernel, rank, same = weight_shape[2:], len(weight_shape) - 2, padding is None
        begin, end = (padding[::2], padding[1::2]) if padding is not None else ((0,) * rank, (0,) * rank)
        channels = weight_shape[1 if transposed else 0]
        # Read by onednn_conv.cc, which takes all sizes from the volumes.
        self.config = Tensor(np.array([rank, transposed, same, *stride, *begin, *end], np.int64))

        def size(n: int, axis: int) -> int:
            k, step, pad = kernel[axis], stride[axis], begin[axis] + end[axis]
            if transposed:
                return n * step if same else (n - 1) * step + k - pad + extra[axis]
            return -(-n // step) if same else (n + pad - k) // step + 1

        def forward_shape(config: Any, x: Any, *_: Any) -> Any:
            return [x[0], channels, *(size(n, axis) for axis, n in enumerate(x[2:]))]

        def forward_type(config: Any, x: Any, *_: Any) -> Any:
            return x

        def like_x(config: Any, dy: Any, weight: Any, x: Any) -> Any:
            return x

        def weights_shape(config: Any, x: Any, dy: Any) -> Any:
            return (list(weight_shape), [channels]) if has_bias else list(weight_shape)

        def weights_type(config: Any, x: Any, dy: Any) -> Any:
            return (x, x) if has_bias else x

        # Two operators, so that a graph in which one gradient isn't needed drops that one. The input's gradient
        # gets x for its shape alone: with a stride it doesn't follow from dy's.
        backward_data = ops.Custom(f"{library}:ConvBackwardData", like_x, like_x, "aot")
        backward_weights = ops.Custom(f"{library}:ConvBackwardWeights", weights_shape, weights_type, "aot")

        def bprop(config: Any, x: Any, weight: Any, out: Any, dout: Any) -> Any:
            return (ops.zeros_like(config), backward_data(config, dout, weight, x), backward_weights(config, x, dout))

        def bprop_with_bias(config: Any, x: Any, weight: Any, bias: Any, out: Any, dout: Any) -> Any:
            dweight, dbias = backward_weights(config, x, dout)
            return ops.zeros_like(config), backward_data(config, dout, weight, x), dweight, dbias

        self.forward = ops.Custom(f"{library}:ConvForward", forward_shape, forward_type, "aot",
                                  bprop_with_bias if has_bias else bprop)
        # PyNative mode takes operators with equal attributes and input shapes for the same one, functions or not.
        form = str((self.config.asnumpy().tolist(), list(weight_shape), list(extra), has_bias))
        for operator in (self.forward, backward_data, backward_weights):
            operator.add_prim_attr("form", form)

    def construct(self, x: Tensor, *parameters: Tensor) -> Tensor:
        return self.forward(self.config, x, *parameters)


def _conv_op(cell: nn.Cell, transposed: bool) -> ConvOp | None:
    """Return what serves `cell` instead of MindSpore's operator; None where that stays."""
    library = kernels()
    if library is None or not library.has_onednn:
        return None
    weight, rank = cell.weight, len(cell.kernel_size)
    if weight.dtype != ms.float32 or cell.group != 1 or any(n != 1 for n in cell.dilation):
        return None
    extra = getattr(cell, "output_padding", 0)
    extra = (extra,) * rank if isinstance(extra, int) else tuple(extra)[-rank:]
    if any(extra) and (rank == 2 or cell.pad_mode != "pad"):
        return None  # in two dimensions, MindSpore appends zeros instead; other modes it refuses, in its own words
    if transposed and cell.pad_mode == "valid":
        # As MindSpore has it: no smaller than the stride times the input.
        extra = tuple(max(step - k, 0) for k, step in zip(cell.kernel_size, cell.stride, strict=True))
    if cell.pad_mode == "same":
        padding = None
    elif cell.pad_mode == "pad" and not isinstance(cell.padding, int):
        padding = cell.padding
    else:
        padding = (cell.padding if cell.pad_mode == "pad" else 0,) * (2 * rank)
    return ConvOp(str(library.path), transposed, weight.shape, cell.stride, padding, extra, cell.has_bias)


class _Served(nn.Cell):
    """What the four cells have in common: the operator that serves the cell, or MindSpore's own computation."""

    transposed = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.op = _conv_op(self, self.transposed)

    def construct(self, x: Tensor) -> Tensor:
        if self.op is None:
            # Not super(): MindSpore's parser takes that for the parent of the cell's own class, which is this one.
            return self.stock(x)
        return self.op(x, self.weight, self.bias) if self.has_bias else self.op(x, self.weight)


class Conv3d(_Served, nn.Conv3d):
    """MindSpore's Conv3d, computed by oneDNN where the CPU kernels are in use; arguments and parameters are its own."""

    stock = nn.Conv3d.construct


class Conv3dTranspose(_Served, nn.Conv3dTranspose):
    """MindSpore's Conv3dTranspose, computed by oneDNN where the CPU kernels are in use."""

    transposed = True
    stock = nn.Conv3dTranspose.construct


class Conv2d(_Served, nn.Conv2d):
    """MindSpore's Conv2d, computed by oneDNN where the CPU kernels are in use."""

    stock = nn.Conv2d.construct


class Conv2dTranspose(_Served, nn.Conv2dTranspose):
    """MindSpore's Conv2dTranspose, computed by oneDNN where the CPU kernels are in use."""

    transposed = True
    stock = nn.Conv2dTranspose.construct
