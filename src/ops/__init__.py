"""Convolutions and normalisation as the networks see them.

The networks import these names only; which kernels serve them on a device is decided here and nowhere else.
All are MindSpore's own cells at present, so parameter names and shapes are MindSpore's.
"""

from mindspore import nn

from src.ops.dropout import ChannelDropout


def conv3d(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv3d:
    """Return a 3-D convolution with bias: same size at stride 1, no padding otherwise.

    Weight (out_channels, in_channels, k, k, k), initialised as He et al. 2015, "Delving deep into rectifiers".
    """
    padding = kernel_size // 2 if stride == 1 else 0
    return nn.Conv3d(in_channels, out_channels, kernel_size, stride, pad_mode="pad", padding=padding, has_bias=True,
                     weight_init="he_normal", bias_init="zeros")


def conv3d_transpose(in_channels: int, out_channels: int, kernel_size: int, stride: int) -> nn.Conv3dTranspose:
    """Return a transposed 3-D convolution with bias, without padding: size n becomes (n - 1) * stride + kernel_size."""
    return nn.Conv3dTranspose(in_channels, out_channels, kernel_size, stride, pad_mode="pad", padding=0, has_bias=True,
                              weight_init="he_normal", bias_init="zeros")


def batch_norm3d(channels: int) -> nn.BatchNorm3d:
    """Return batch normalisation over (N, X, Y, Z) of each channel."""
    return nn.BatchNorm3d(channels)


__all__ = ["ChannelDropout", "batch_norm3d", "conv3d", "conv3d_transpose"]
