"""Layers as the networks see them; which kernels serve them on a device is decided in `select.py` and nowhere else."""

from src.ops.activation import activation
from src.ops.conv import Conv2d, Conv2dTranspose, Conv3d, Conv3dTranspose
from src.ops.dropout import ChannelDropout
from src.ops.norm import VolumeNorm
from src.ops.picture import PictureHead, PictureLayout, PictureUnit
from src.ops.picture_size import Gate, PoolFork, Stretch
from src.ops.unit import ConvUnit, UpJoinUnit
from src.ops.upsample import UpConv3dTranspose
from src.ops.volume import fork

__all__ = ["ChannelDropout", "Conv2d", "Conv2dTranspose", "Conv3d", "Conv3dTranspose", "ConvUnit",
           "Gate", "PictureHead", "PictureLayout", "PictureUnit", "PoolFork", "Stretch", "UpConv3dTranspose",
           "UpJoinUnit", "VolumeNorm", "activation", "fork"]
