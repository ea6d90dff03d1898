"""Activations with one name on every back end."""

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

ACTIVATIONS = ("none", "elu", "prelu")


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
    """Return the activation `elu`, `prelu` or `none` for `channels` channels.

    Raises:
        ValueError: another name.
    """
    if name == "none":
        return nn.Identity()
    if name == "elu":
        return nn.ELU()
    if name == "prelu":
        return ChannelPReLU(channels)
    raise ValueError(f"activation: found {name!r}, expected one of {', '.join(ACTIVATIONS)}")
