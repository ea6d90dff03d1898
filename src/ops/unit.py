"""Convolution, batch norm, activation and residual sum as one cell: one kernel on CPU, stock cells elsewhere."""

from typing import Any

from mindspore import Tensor, nn, ops

from src.ops import select
from src.ops.activation import activation
from src.ops.conv import Conv3d, Conv3dTranspose
from src.ops.cpu.unit_op import LANES, UnitForm, UnitOp
from src.ops.norm import InstanceNorm3d, build_norm
from src.ops.volume import Layout, ScaleChannels

_MOST_OUTPUT_CHANNELS = 8  # that the kernel of the `output` form takes


class ConvUnit(nn.Cell):
    """residual_act(act(norm(conv(x))) + residual): same size at stride 1, half or double at stride 2.

    Parameters are those of its cells `conv`, `norm`, `act` and `residual_act`, whichever kernels compute: a
    checkpoint moves between back ends. Weights are drawn as He et al. 2015, "Delving deep into rectifiers".

    Input: a volume (N, in_channels, X, Y, Z), in either layout (see volume.py), and the residual where it is
    `given`. Output: (N, out_channels, X', Y', Z').

    Args:
        kernel_size: edge of the kernel; odd at stride 1, equal to the stride otherwise.
        stride: 1, or 2 without overlap.
        transposed: multiply the size by the stride in place of dividing it.
        norm: the norm of the unit options after the convolution: batch norm, or instance norm.
        act: activation after it, one of `activation.ACTIVATIONS`.
        residual: `none`; `given` with each call; `own`, the input x itself; `image`, a plain volume of one channel
            that is the unit's input and is added to each channel.
        residual_act: activation after the sum.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, *,
                 transposed: bool = False, norm: bool = True, act: str = "none", residual: str = "none",
                 residual_act: str = "none", skip_channels: int = 0):
        super().__init__()
        padding = kernel_size // 2 if stride == 1 else 0
        convolution = Conv3dTranspose if transposed else Conv3d
        self.conv = convolution(in_channels, out_channels, kernel_size, stride, pad_mode="pad", padding=padding,
                                has_bias=True, weight_init="he_normal", bias_init="zeros")
        options = select.unit_options()
        self.instance = norm and options.norm == "instance"
        self.norm = build_norm(out_channels, options.norm, options.norm_ranks) if norm else nn.Identity()
        self.act = activation(act, out_channels)
        self.residual_act = activation(residual_act, out_channels)
        self.residual = residual
        self.has_norm, self.learned_act, self.learned_residual_act = norm, act == "prelu", residual_act == "prelu"
        self.fused: Any = None  # a UnitOp
        kernels = select.kernels()
        if kernels is not None:
            kind = _kind(in_channels, out_channels, kernel_size, stride, transposed, residual)
            path = str(kernels.path)
            self.to_plain = Layout(path)
            synced = norm and options.norm_ranks > 1 and not self.instance
            if kind is not None and kernels.has_blocked and skip_channels % LANES == 0 and not synced:
                form = UnitForm(kind, kernel_size, out_channels, norm, act, residual, residual_act, skip_channels > 0,
                                self.instance)
                epsilon, momentum = InstanceNorm3d.eps, 0.9
                if norm and not self.instance:
                    # MindSpore's cell keeps the weight of the new value, one less the momentum it was given.
                    epsilon, momentum = self.norm.bn2d.eps, 1 - self.norm.bn2d.momentum
                self.fused = UnitOp(path, form, options, epsilon, momentum)
                self.to_blocked = Layout(path, options.storage)
                self.blocked_input = kind != "input"
                self.nothing = Tensor([0.0])
        self.stock = kernels is None

    def construct(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if self.fused is not None:
            if residual is not None:
                return self._fused(x, self.to_blocked(residual), self.nothing)
            if self.residual == "image":
                x = x.astype("float32")
                return self._fused(x, x, self.nothing)
            return self._fused(x, self.nothing, self.nothing)
        x = self._plain(x)
        y = self.act(self.norm(self.conv(x)))
        if self.residual == "none":
            return y
        if residual is None:
            return self.residual_act(y + x)
        return self.residual_act(y + self._plain(residual))

    def _plain(self, x: Tensor) -> Tensor:
        return x if self.stock else self.to_plain(x)

    def _fused(self, x: Tensor, residual: Tensor, keep: Tensor) -> Tensor:
        x = self.to_blocked(x) if self.blocked_input else x.astype("float32")
        gamma, beta, mean, variance = self.nothing, self.nothing, self.nothing, self.nothing
        if self.instance:
            gamma, beta = self.norm.gamma, self.norm.beta
        elif self.has_norm:
            norm = self.norm.bn2d
            gamma, beta, mean, variance = norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance
        slope = self.act.weight if self.learned_act else self.nothing
        slope2 = self.residual_act.weight if self.learned_residual_act else self.nothing
        return self.fused(x, residual, keep, self.conv.weight, self.conv.bias, gamma, beta, mean, variance, slope,
                          slope2)


class UpJoinUnit(ConvUnit):
    """A transposed convolution of stride 2 with norm and activation, and a skip connection joined to its channels.

    Input: x (N, in_channels, X, Y, Z), skip (N, skip_channels, 2X, 2Y, 2Z), and keep (N, skip_channels), the factors
    of the skip connection's channels (see `ChannelDropout`), or None. Output: (N, out_channels + skip_channels, 2X,
    2Y, 2Z).
    """

    def __init__(self, in_channels: int, out_channels: int, skip_channels: int, *, norm: bool, act: str):
        super().__init__(in_channels, out_channels, 2, 2, transposed=True, norm=norm, act=act,
                         skip_channels=skip_channels)
        self.multiply = ScaleChannels()

    def construct(self, x: Tensor, skip: Tensor, keep: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if self.fused is not None:
            return self._fused(x, self.to_blocked(skip), self.nothing if keep is None else keep)
        up = self.act(self.norm(self.conv(self._plain(x))))
        skip = self._plain(skip)
        if keep is not None:
            skip = self.multiply(skip, keep)
        return ops.cat((up, skip), axis=1)


def _kind(in_channels: int, out_channels: int, kernel_size: int, stride: int, transposed: bool,
          residual: str) -> str | None:
    """Return the form of unit (see `UnitForm`) that has a kernel for this geometry, None if there is none."""
    whole_in, whole_out = in_channels % LANES == 0, out_channels % LANES == 0
    if (kernel_size, stride) == (2, 2) and whole_in and whole_out and residual == "none":
        return "up" if transposed else "down"
    if stride != 1 or transposed:
        return None
    if kernel_size == 5 and whole_out:
        if whole_in and residual != "image":
            return "same"
        return "input" if in_channels == 1 and residual in ("none", "image") else None
    if kernel_size in (1, 3, 5) and whole_in and out_channels <= _MOST_OUTPUT_CHANNELS and residual == "none":
        return "output"
    return None
