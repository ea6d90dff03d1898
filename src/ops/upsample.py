"""Nearest upsampling and the transposed convolution after it, as one operator."""

from collections.abc import Sequence

from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from src.ops import select
from src.ops.conv import ConvOp


class UpConv3dTranspose(nn.Cell):
    """Nearest upsampling by `factor`, then a transposed convolution of stride 1.

    Both are linear, so they are one transposed convolution of stride `factor`, whose kernel is the given one summed
    over the `factor` places that a voxel is repeated at. That saves the upsampled volume, 8 times the input at
    factor 2, and more than half of the products (4 in place of 9 a voxel and pair of channels, for a 3 x 3 x 1 kernel).

    Input (N, in_channels, X, Y, Z); output (N, out_channels, ...), each axis factor * n + k - 1, or factor * n with
    `same`. Parameters `weight` (in, out, k, k, k) and `bias`, as without upsampling.

    Args:
        kernel_size: of the transposed convolution, by axis; odd with `same`.
        factor: 1 or 2, by axis.
        same: cut the border off, so that the size is that of the upsampled volume.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sequence[int], factor: Sequence[int],
                 same: bool = False):
        super().__init__()
        self.weight = Parameter(initializer("he_normal", (in_channels, out_channels, *kernel_size)), name="weight")
        self.bias = Parameter(initializer("zeros", (out_channels,)), name="bias")
        self.doubled = tuple(axis + 2 for axis, n in enumerate(factor) if n == 2)
        folded = tuple(k + n - 1 for k, n in zip(kernel_size, factor, strict=True))
        padding = tuple((k // 2 if same else 0) for k in kernel_size for _ in range(2))
        kernels = select.kernels()
        self.served = kernels is not None and kernels.has_onednn
        if kernels is not None and kernels.has_onednn:
            self.op = ConvOp(str(kernels.path), True, (in_channels, out_channels, *folded), tuple(factor), padding,
                             (0, 0, 0), has_bias=True)
        else:
            self.stock = ops.Conv3DTranspose(in_channels, out_channels, folded, pad_mode="pad", pad=padding,
                                             stride=tuple(factor))
            self.bias_add = ops.BiasAdd(data_format="NCDHW")

    def construct(self, x: Tensor) -> Tensor:
        weight = self.weight + 0.0
        for axis in self.doubled:
            border = ops.zeros_like(_first(weight, axis))
            weight = ops.cat((weight, border), axis) + ops.cat((border, weight), axis)
        if self.served:
            return self.op(x, weight, self.bias)
        return self.bias_add(self.stock(x, weight), self.bias)


def _first(weight: Tensor, axis: int) -> Tensor:
    """Return the first layer of a (in, out, X, Y, Z) kernel along `axis`, as a kernel of one voxel there."""
    if axis == 2:
        return weight[:, :, :1]
    if axis == 3:
        return weight[:, :, :, :1]
    return weight[:, :, :, :, :1]
