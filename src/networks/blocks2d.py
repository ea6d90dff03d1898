"""Pieces that the two-dimensional networks share. Pictures (N, C, H, W) are of either layout, see ops/picture.py."""

from collections.abc import Sequence
from typing import Any

from mindspore import Tensor, nn

from src import ops as layers

UPSAMPLINGS = ("transposed", "bilinear")


class DoubleConv(nn.Cell):
    """Twice a 3 x 3 convolution, batch norm and ReLU.

    Input: a picture, or a tuple of pictures as if joined in their channels. Output: `channels` channels.

    Args:
        in_channels: of the input, or of each.
        channels: of the result.
        middle: channels between the two convolutions; None: `channels`.
        image: the input is the network's (see `ops.PictureUnit`).
    """

    def __init__(self, in_channels: int | Sequence[int], channels: int, middle: int | None = None,
                 image: bool = False):
        super().__init__()
        middle = channels if middle is None else middle
        self.first = layers.PictureUnit(in_channels, middle, image=image)
        self.second = layers.PictureUnit(middle, channels)

    def construct(self, x: Any) -> Tensor:
        return self.second(self.first(x))


def upsampling(kind: str, in_channels: int, out_channels: int) -> nn.Cell:
    """Return what doubles a picture's size: a 2 x 2 transposed convolution of stride 2, or bilinear interpolation.

    Raises:
        ValueError: `kind` is none of `UPSAMPLINGS`, or interpolation is to change the number of channels.
    """
    if kind not in UPSAMPLINGS:
        raise ValueError(f"upsampling: found {kind!r}, expected one of {', '.join(UPSAMPLINGS)}")
    if kind == "transposed":
        return layers.PictureUnit(in_channels, out_channels, 2, 2, transposed=True, norm=False, has_bias=True,
                                  relu=False)
    if in_channels != out_channels:
        raise ValueError(f"bilinear upsampling: keeps {in_channels} channels, expected {out_channels}")
    return layers.Stretch()


def check_picture(name: str, shape: Sequence[int], channels: int, multiple: int) -> None:
    """Check the shape (N, C, H, W) of a network's input.

    Raises:
        ValueError: another number of axes or channels, or a size that does not divide by `multiple`.
    """
    if len(shape) != 4 or shape[1] != channels:
        raise ValueError(f"{name} input of shape {shape}: expected (N, {channels}, H, W)")
    if shape[2] % multiple != 0 or shape[3] % multiple != 0:
        raise ValueError(f"{name} input of shape {shape}: H and W have to be multiples of {multiple}")
