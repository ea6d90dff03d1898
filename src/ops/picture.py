"""What two-dimensional networks are made of, on CPU one kernel each, elsewhere MindSpore's cells.

Between the CPU kernels a picture is blocked, a volume of one plane (N, C/16, 1, H, W, 16), where its channels are a
multiple of 16; everywhere else it is plain, (N, C, H, W). The cells take either layout.
"""

from collections.abc import Sequence
from typing import Any

from mindspore import Tensor, nn, ops

from src.ops import select
from src.ops.conv import Conv2d, Conv2dTranspose
from src.ops.cpu.unit_op import LANES, UnitForm, UnitOp
from src.ops.picture_op import MOST_INPUTS, PictureForm, PictureOp
from src.ops.select import UnitOptions
from src.ops.volume import Layout

_MOST_CLASSES = 8  # that the kernel of the last convolution takes


class PictureLayout(nn.Cell):
    """Changes a picture's layout; nothing where it has the one wanted already, or where no kernels are in use.

    Args:
        blocked: to the blocked layout, else to the plain one.
    """

    def __init__(self, blocked: bool):
        super().__init__()
        library = _library()
        self.stock = library is None
        self.blocked = blocked
        if library is not None:
            self.change = Layout(library, "float32" if blocked else None)

    def construct(self, x: Tensor) -> Tensor:
        if self.stock or x.ndim == (6 if self.blocked else 4):
            return x
        if self.blocked:
            return self.change(x.reshape((x.shape[0], x.shape[1], 1, x.shape[2], x.shape[3])))
        y = self.change(x)
        return y.reshape((y.shape[0], y.shape[1], y.shape[3], y.shape[4]))


class PictureUnit(nn.Cell):
    """relu(norm(conv(x)) + residual), x one picture or several as if joined in their channels.

    Parameters are those of its cells `conv` and `norm`, whichever kernels compute: a checkpoint moves between back
    ends. Weights are drawn as He et al. 2015, "Delving deep into rectifiers".

    Input: a picture, or a tuple of them, and the residual where there is one. Output: a picture of the size divided
    (`transposed`: multiplied) by the stride.

    Args:
        in_channels: of the input, or of each.
        kernel_size: edge of the kernel; padded by (kernel_size - 1) // 2.
        transposed: a transposed convolution; kernel_size has to be the stride.
        norm: batch norm, or without it a bias if `has_bias`.
        residual: whether each call gives a picture to add.
        image: the input is the network's, plain, and needs no gradient: the CPU kernel gives none.
    """

    def __init__(self, in_channels: int | Sequence[int], out_channels: int, kernel_size: int = 3, stride: int = 1, *,
                 transposed: bool = False, norm: bool = True, has_bias: bool = False, relu: bool = True,
                 residual: bool = False, image: bool = False):
        super().__init__()
        inputs = (in_channels,) if isinstance(in_channels, int) else tuple(in_channels)
        convolution = Conv2dTranspose if transposed else Conv2d
        self.conv = convolution(sum(inputs), out_channels, kernel_size, stride, pad_mode="pad",
                                padding=(kernel_size - 1) // 2, has_bias=has_bias, weight_init="he_normal",
                                bias_init="zeros")
        self.norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()
        self.has_norm, self.has_bias, self.relu, self.has_residual = norm, has_bias, relu, residual
        self.to_plain, self.to_blocked = PictureLayout(False), PictureLayout(True)
        library = _library()
        whole = out_channels % LANES == 0 and (image or all(channels % LANES == 0 for channels in inputs))
        self.fused: Any = None
        if library is not None and whole and len(inputs) <= MOST_INPUTS:
            form = PictureForm(transposed, kernel_size, stride, inputs, out_channels, norm, relu, residual, image)
            # MindSpore's cell keeps the weight of the new value, one less the momentum it was given.
            epsilon, momentum = (self.norm.eps, 1 - self.norm.momentum) if norm else (1e-5, 0.9)
            self.fused = PictureOp(library, form, epsilon, momentum)
            self.image = image
            self.nothing = Tensor([0.0])

    def construct(self, x: Any, residual: Tensor | None = None) -> Tensor:
        inputs = x if isinstance(x, tuple) else (x,)
        if self.fused is not None:
            return self._fused(inputs, residual)
        plain: tuple[Tensor, ...] = ()
        for part in inputs:
            plain = plain + (self.to_plain(part),)
        y = self.norm(self.conv(plain[0] if len(plain) == 1 else ops.cat(plain, axis=1)))
        if residual is not None:
            y = y + self.to_plain(residual)
        return ops.relu(y) if self.relu else y

    def _fused(self, inputs: tuple[Tensor, ...], residual: Tensor | None) -> Tensor:
        parts: tuple[Tensor, ...] = ()
        for part in inputs:
            parts = parts + (part.astype("float32") if self.image else self.to_blocked(part),)
        for _ in range(MOST_INPUTS - len(inputs)):
            parts = parts + (self.nothing,)
        gamma, beta, mean, variance = self.nothing, self.nothing, self.nothing, self.nothing
        if self.has_norm:
            gamma, beta = self.norm.gamma, self.norm.beta
            mean, variance = self.norm.moving_mean, self.norm.moving_variance
        bias = self.conv.bias if self.has_bias else self.nothing
        added = self.nothing if residual is None else self.to_blocked(residual)
        return self.fused(self.conv.weight, bias, gamma, beta, mean, variance, added, parts)


class PictureHead(nn.Cell):
    """A 1 x 1 convolution with bias to `classes` channels of a plain picture: the last layer.

    Input: a picture of `in_channels` channels, in either layout. Output (N, classes, H, W).
    """

    def __init__(self, in_channels: int, classes: int):
        super().__init__()
        self.conv = Conv2d(in_channels, classes, 1, pad_mode="pad", padding=0, has_bias=True, weight_init="he_normal",
                           bias_init="zeros")
        self.to_plain = PictureLayout(False)
        library = _library()
        self.classes = classes
        self.fused: Any = None
        if library is not None and in_channels % LANES == 0 and classes <= _MOST_CLASSES:
            form = UnitForm("output", 1, classes, False, "none", "none", "none", False)
            self.fused = UnitOp(library, form, UnitOptions(), 1e-5, 0.9)
            self.nothing = Tensor([0.0])

    def construct(self, x: Tensor) -> Tensor:
        if self.fused is None or x.ndim == 4:
            return self.conv(self.to_plain(x))
        weight, none = self.conv.weight, self.nothing
        weight = weight.reshape((self.classes, weight.shape[1], 1, 1, 1))
        y = self.fused(x, none, none, weight, self.conv.bias, none, none, none, none, none, none)
        return y.reshape((y.shape[0], self.classes, y.shape[3], y.shape[4]))


def _library() -> str | None:
    """Return the path of the kernels that a cell made now should use; None for MindSpore's operators."""
    library = select.kernels()
    return str(library.path) if library is not None and library.has_blocked and library.has_onednn else None
