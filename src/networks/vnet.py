"""V-Net: F. Milletari, N. Navab, S.-A. Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric Medical
Image Segmentation", 3DV 2016 (arXiv 1606.04797)."""

from dataclasses import dataclass

from mindspore import Tensor, nn

from src import ops as layers
from src.networks.blocks import ResidualBlock


@dataclass(frozen=True)
class Layout:
    """What distinguishes the variants: convolutions a stage, which stages drop channels, normalisation."""

    down_units: tuple[int, int, int, int]
    up_units: tuple[int, int, int, int]
    down_dropout: tuple[bool, bool, bool, bool]
    up_dropout: tuple[bool, bool, bool, bool]
    skip_dropout: bool
    norm: bool
    act: str
    out_conv: bool  # a 5³ convolution with activation before the last one


LAYOUTS = {
    "default": Layout((1, 2, 3, 2), (2, 2, 1, 1), (False, False, True, True), (True, True, False, False),
                      skip_dropout=True, norm=True, act="elu", out_conv=True),
    # Figure 2 of the paper: PReLU throughout, no normalisation, no dropout, a 1³ convolution to the two classes.
    "paper": Layout((2, 3, 3, 3), (3, 3, 2, 1), (False,) * 4, (False,) * 4,
                    skip_dropout=False, norm=False, act="prelu", out_conv=False),
}
STAGES = 4


class DownTransition(nn.Cell):
    """Halve the size by a 2³ convolution of stride 2, double the channels, then a residual block of `units` convs."""

    def __init__(self, in_channels: int, units: int, dropout: float, act: str, norm: bool, seed: int):
        super().__init__()
        channels = 2 * in_channels
        self.down = layers.ConvUnit(in_channels, channels, 2, stride=2, norm=norm, act=act)
        self.block = ResidualBlock(channels, units, act, norm, dropout, seed)

    def construct(self, x: Tensor) -> Tensor:
        return self.block(self.down(x))


class UpTransition(nn.Cell):
    """Double the size by a 2³ transposed convolution, concatenate the skip, then a residual block of `units` convs.

    The upsampled half has `channels` - `skip_channels` channels, so that the block works on `channels`.
    """

    def __init__(self, in_channels: int, skip_channels: int, channels: int, units: int, dropout: float,
                 skip_dropout: float, act: str, norm: bool, seed: int):
        super().__init__()
        self.dropout = layers.ChannelDropout(dropout, seed) if dropout else nn.Identity()
        self.drops_skip = skip_dropout > 0
        self.skip_dropout = layers.ChannelDropout(skip_dropout, seed + 1) if skip_dropout else nn.Identity()
        self.up = layers.UpJoinUnit(in_channels, channels - skip_channels, skip_channels, norm=norm, act=act)
        self.block = ResidualBlock(channels, units, act, norm)

    def construct(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.dropout(x)
        if self.drops_skip and self.training:
            # The unit multiplies while it copies: no pass of its own over the volume.
            return self.block(self.up(x, skip, self.skip_dropout.keep(skip)))
        return self.block(self.up(x, skip))


class OutputTransition(nn.Cell):
    """To the class logits: optionally a 5³ convolution, norm and activation, then a convolution of `kernel_size`."""

    def __init__(self, in_channels: int, classes: int, kernel_size: int, act: str, norm: bool, first_conv: bool):
        super().__init__()
        self.first = layers.ConvUnit(in_channels, classes, 5, norm=norm, act=act) if first_conv else nn.Identity()
        self.last = layers.ConvUnit(classes if first_conv else in_channels, classes, kernel_size, norm=False)

    def construct(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))


class VNet(nn.Cell):
    """V-Net for volumes of one channel.

    Input (N, 1, X, Y, Z), output logits (N, classes, X, Y, Z); X, Y and Z must be multiples of 16. With deep
    supervision, and in training mode, a tuple: these logits, and those at 1/2, 1/4 and 1/8 of the size.

    Args:
        variant: `default` (batch norm, dropout) or `paper`.
        activation: `elu`, `prelu`, or `auto` for the variant's own.
        base_channels: channels after the input transition, 16 in the paper.
        dropout: probability of a channel to be dropped where the variant has dropout.
        out_kernel: edge of the last convolution.
        classes: number of output channels.
        seed: of the dropout masks.
        deep_supervision: give the stages of the way up, but for the last, a 1³ convolution to logits each.

    Raises:
        ValueError: unknown variant or activation, or an input size that is no multiple of 16.
    """

    def __init__(self, variant: str = "default", activation: str = "auto", base_channels: int = 16,
                 dropout: float = 0.5, out_kernel: int = 1, classes: int = 2, seed: int = 1,
                 deep_supervision: bool = False):
        super().__init__()
        if variant not in LAYOUTS:
            raise ValueError(f"V-Net variant: found {variant!r}, expected one of {', '.join(LAYOUTS)}")
        layout = LAYOUTS[variant]
        act = layout.act if activation == "auto" else activation
        base = base_channels
        self.checks_size = True  # `export_form.any_size` turns it off
        # The single-channel input is added to each of the first channels.
        self.input = layers.ConvUnit(1, base, 5, norm=layout.norm, residual="image", residual_act=act)
        self.forks = nn.CellList([layers.fork() for _ in range(STAGES)])
        self.downs = nn.CellList([
            DownTransition(base * 2**i, layout.down_units[i], dropout * layout.down_dropout[i], act, layout.norm,
                           seed=1000 * seed + 10 * i)
            for i in range(STAGES)])
        # Channels that leave each up transition: 256, 256, 128, 64, 32 from the bottom, for 16 base channels.
        widths = [base * 16, base * 16, base * 8, base * 4, base * 2]
        self.ups = nn.CellList([
            UpTransition(widths[i], base * 2 ** (STAGES - 1 - i), widths[i + 1], layout.up_units[i],
                         dropout * layout.up_dropout[i], dropout * layout.skip_dropout, act, layout.norm,
                         seed=1000 * seed + 500 + 10 * i)
            for i in range(STAGES)])
        self.output = OutputTransition(base * 2, classes, out_kernel, act, layout.norm, layout.out_conv)
        # From the bottom, at 1/8, 1/4 and 1/2 of the size. Made last: the other weights are drawn as without them.
        self.deep_supervision = deep_supervision
        if deep_supervision:
            self.head_forks = nn.CellList([layers.fork() for _ in range(STAGES - 1)])
            self.heads = nn.CellList([layers.ConvUnit(width, classes, 1, norm=False) for width in widths[1:STAGES]])

    def construct(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.checks_size and (x.shape[2] % 16 != 0 or x.shape[3] % 16 != 0 or x.shape[4] % 16 != 0):
            raise ValueError(f"V-Net input of shape {x.shape}: every volume axis must be a multiple of 16")
        x = self.input(x)
        skips = []
        for i, down in enumerate(self.downs):
            x, skip = self.forks[i](x)
            skips.append(skip)
            x = down(x)
        if self.deep_supervision and self.training:
            return self._all_logits(x, skips)
        for i, up in enumerate(self.ups):
            x = up(x, skips[STAGES - 1 - i])
        return self.output(x)

    def _all_logits(self, x: Tensor, skips: list[Tensor]) -> tuple[Tensor, ...]:
        coarse: tuple[Tensor, ...] = ()
        for i, up in enumerate(self.ups):
            x = up(x, skips[STAGES - 1 - i])
            if i < STAGES - 1:
                x, branch = self.head_forks[i](x)
                coarse = (self.heads[i](branch), *coarse)
        return (self.output(x), *coarse)
