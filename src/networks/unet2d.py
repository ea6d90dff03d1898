"""U-Net: O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
MICCAI 2015 (arXiv 1505.04597), with zero-padded convolutions and batch norm."""

from mindspore import Tensor, nn

from src import ops as layers
from src.networks.blocks2d import DoubleConv, check_picture, upsampling

LEVELS = 4  # halvings


def unet_widths(base: int, kind: str) -> list[int]:
    """Return the channels at full size and after each halving; with bilinear upsampling the bottom has half of its."""
    widths = [base * 2**level for level in range(LEVELS + 1)]
    if kind == "bilinear":
        widths[LEVELS] //= 2
    return widths


class Contraction(nn.Cell):
    """The way down of a U-Net: (N, C, H, W) -> (bottom, the skip connections from the full size on).

    Args:
        channels: of the image.
        widths: channels of each level, the bottom's last.
        dropout: probability of a channel to be dropped at the bottom, in training.
        seed: of the dropout masks.
    """

    def __init__(self, channels: int, widths: list[int], dropout: float, seed: int):
        super().__init__()
        self.blocks = nn.CellList([
            DoubleConv(widths[level - 1] if level else channels, widths[level], image=level == 0)
            for level in range(LEVELS + 1)])
        self.pools = nn.CellList([layers.PoolFork() for _ in range(LEVELS)])
        self.dropout = layers.ChannelDropout(dropout, seed) if dropout else nn.Identity()

    def construct(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        skips: tuple[Tensor, ...] = ()
        for level, pool in enumerate(self.pools):
            skip, x = pool(self.blocks[level](x))
            skips = skips + (skip,)
        return self.dropout(self.blocks[LEVELS](x)), skips


class Expansion(nn.Cell):
    """One step of the way up: (x, skip of twice the size) -> `out_channels` channels of that size.

    Args:
        in_channels: of x.
        skip_channels: of the skip connection.
        out_channels: of the result.
        kind: of upsampling. With `bilinear` x keeps its channels, and the first of the two convolutions gives half of
            those that it gets.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, kind: str):
        super().__init__()
        bilinear = kind == "bilinear"
        self.up = upsampling(kind, in_channels, in_channels if bilinear else skip_channels)
        up_channels = in_channels if bilinear else skip_channels
        self.block = DoubleConv((skip_channels, up_channels), out_channels,
                                (skip_channels + up_channels) // 2 if bilinear else out_channels)

    def construct(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.block((skip, self.up(x)))


def expansions(widths: list[int], kind: str) -> nn.CellList:
    """Return the steps of the way up, from the bottom; each gives the next one's bottom."""
    steps, channels = [], widths[LEVELS]
    for level in reversed(range(LEVELS)):
        # Bilinear upsampling cannot halve the channels: the convolutions before it do.
        out = max(widths[level] // 2, widths[0]) if kind == "bilinear" else widths[level]
        steps.append(Expansion(channels, widths[level], out, kind))
        channels = out
    return nn.CellList(steps)


class UNet2d(nn.Cell):
    """U-Net of four halvings: (N, channels, H, W) -> logits (N, out_channels, H, W); H and W multiples of 16.

    With base 64 the levels have 64, 128, 256, 512 channels and 1024 at the bottom; with bilinear upsampling 512 there,
    and the way up 256, 128, 64, 64.

    Args:
        channels: of the image.
        out_channels: logits.
        base_channels: at full size.
        kind: of upsampling, `transposed` or `bilinear`.
        dropout: probability of a channel to be dropped at the bottom.
        seed: of the dropout masks.

    Raises:
        ValueError: unknown upsampling, or an input of another size or number of channels.
    """

    def __init__(self, channels: int, out_channels: int = 1, base_channels: int = 32, kind: str = "transposed",
                 dropout: float = 0.0, seed: int = 1):
        super().__init__()
        self.channels = channels
        widths = unet_widths(base_channels, kind)
        self.down = Contraction(channels, widths, dropout, seed)
        self.up = expansions(widths, kind)
        self.head = layers.PictureHead(widths[0], out_channels)

    def construct(self, x: Tensor) -> Tensor:
        check_picture("U-Net", x.shape, self.channels, 2**LEVELS)
        x, skips = self.down(x)
        for step, up in enumerate(self.up):
            x = up(x, skips[LEVELS - 1 - step])
        return self.head(x)
