"""Pieces that the volumetric networks share."""

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src import ops as layers


class ChannelPReLU(nn.Cell):
    """PReLU with one slope a channel (He et al. 2015): x where x > 0, slope * x elsewhere; any (N, C, ...) shape.

    Written with ReLU, since MindSpore's own 5-D PReLU exports wrongly to ONNX.
    """

    def __init__(self, channels: int, slope: float = 0.25):
        super().__init__()
        self.weight = Parameter(Tensor(np.full(channels, slope, np.float32)), name="weight")

    def construct(self, x: Tensor) -> Tensor:
        slope = self.weight.reshape((1, -1) + (1,) * (x.ndim - 2)).astype(x.dtype)
        return ops.relu(x) - slope * ops.relu(-x)


class ExportableELU(nn.Cell):
    """ELU (Clevert et al. 2016) from operators that the ONNX exporter knows: relu(x) + exp(-relu(-x)) - 1."""

    def construct(self, x: Tensor) -> Tensor:
        return ops.relu(x) + ops.exp(-ops.relu(-x)) - 1


def activation(name: str, channels: int) -> nn.Cell:
    """Return the activation `elu` or `prelu` for `channels` channels.

    Raises:
        ValueError: another name.
    """
    if name == "elu":
        return nn.ELU()
    if name == "prelu":
        return ChannelPReLU(channels)
    raise ValueError(f"activation: found {name!r}, expected elu or prelu")


class ConvUnit(nn.Cell):
    """A 5³ convolution at constant channels, batch norm (unless `norm` is False), activation."""

    def __init__(self, channels: int, act: str, norm: bool):
        super().__init__()
        self.conv = layers.conv3d(channels, channels, 5)
        self.norm = layers.batch_norm3d(channels) if norm else nn.Identity()
        self.act = activation(act, channels)

    def construct(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


def conv_units(channels: int, count: int, act: str, norm: bool) -> nn.SequentialCell:
    """Return `count` `ConvUnit`s in a row."""
    return nn.SequentialCell(*(ConvUnit(channels, act, norm) for _ in range(count)))
