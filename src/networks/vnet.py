"""V-Net: F. Milletari, N. Navab, S.-A. Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric Medical
Image Segmentation", 3DV 2016 (arXiv 1606.04797)."""

from dataclasses import dataclass

from mindspore import Tensor, nn, ops

from src import ops as layers
from src.networks.blocks import activation, conv_units


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


class InputTransition(nn.Cell):
    """5³ convolution to `channels`, plus the single-channel input added to every one of them, activation."""

    def __init__(self, channels: int, act: str, norm: bool):
        super().__init__()
        self.conv = layers.conv3d(1, channels, 5)
        self.norm = layers.batch_norm3d(channels) if norm else nn.Identity()
        self.act = activation(act, channels)

    def construct(self, x: Tensor) -> Tensor:
        # Broadcasting adds the input to each channel; tiling it first would store `channels` equal copies.
        return self.act(self.norm(self.conv(x)) + x)


class DownTransition(nn.Cell):
    """Halve the size by a 2³ convolution of stride 2, double the channels, then a residual block of `units` convs."""

    def __init__(self, in_channels: int, units: int, dropout: float, act: str, norm: bool, seed: int):
        super().__init__()
        channels = 2 * in_channels
        self.down = layers.conv3d(in_channels, channels, 2, stride=2)
        self.norm = layers.batch_norm3d(channels) if norm else nn.Identity()
        self.act = activation(act, channels)
        self.dropout = layers.ChannelDropout(dropout, seed) if dropout else nn.Identity()
        self.units = conv_units(channels, units, act, norm)
        self.out_act = activation(act, channels)

    def construct(self, x: Tensor) -> Tensor:
        down = self.act(self.norm(self.down(x)))
        return self.out_act(self.units(self.dropout(down)) + down)


class UpTransition(nn.Cell):
    """Double the size by a 2³ transposed convolution, concatenate the skip, then a residual block of `units` convs.

    The upsampled half has `channels` - `skip_channels` channels, so that the block works on `channels`.
    """

    def __init__(self, in_channels: int, skip_channels: int, channels: int, units: int, dropout: float,
                 skip_dropout: float, act: str, norm: bool, seed: int):
        super().__init__()
        upsampled = channels - skip_channels
        self.dropout = layers.ChannelDropout(dropout, seed) if dropout else nn.Identity()
        self.skip_dropout = layers.ChannelDropout(skip_dropout, seed + 1) if skip_dropout else nn.Identity()
        self.up = layers.conv3d_transpose(in_channels, upsampled, 2, stride=2)
        self.norm = layers.batch_norm3d(upsampled) if norm else nn.Identity()
        self.act = activation(act, upsampled)
        self.units = conv_units(channels, units, act, norm)
        self.out_act = activation(act, channels)

    def construct(self, x: Tensor, skip: Tensor) -> Tensor:
        up = self.act(self.norm(self.up(self.dropout(x))))
        joined = ops.cat((up, self.skip_dropout(skip)), axis=1)
        return self.out_act(self.units(joined) + joined)


class OutputTransition(nn.Cell):
    """To the class logits: optionally a 5³ convolution, norm and activation, then a convolution of `kernel_size`."""

    def __init__(self, in_channels: int, classes: int, kernel_size: int, act: str, norm: bool, first_conv: bool):
        super().__init__()
        first = []
        if first_conv:
            first = [layers.conv3d(in_channels, classes, 5)]
            first += [layers.batch_norm3d(classes)] if norm else []
            first += [activation(act, classes)]
        self.first = nn.SequentialCell(*first) if first else nn.Identity()
        self.last = layers.conv3d(classes if first_conv else in_channels, classes, kernel_size)

    def construct(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))


class VNet(nn.Cell):
    """V-Net for volumes of one channel.

    Input (N, 1, X, Y, Z), output logits (N, classes, X, Y, Z); X, Y and Z must be multiples of 16.

    Args:
        variant: `default` (batch norm, dropout) or `paper`.
        activation: `elu`, `prelu`, or `auto` for the variant's own.
        base_channels: channels after the input transition, 16 in the paper.
        dropout: probability of a channel to be dropped where the variant has dropout.
        out_kernel: edge of the last convolution.
        classes: number of output channels.
        seed: of the dropout masks.

    Raises:
        ValueError: unknown variant or activation, or an input size that is no multiple of 16.
    """

    def __init__(self, variant: str = "default", activation: str = "auto", base_channels: int = 16,
                 dropout: float = 0.5, out_kernel: int = 1, classes: int = 2, seed: int = 1):
        super().__init__()
        if variant not in LAYOUTS:
            raise ValueError(f"V-Net variant: found {variant!r}, expected one of {', '.join(LAYOUTS)}")
        layout = LAYOUTS[variant]
        act = layout.act if activation == "auto" else activation
        base = base_channels
        self.input = InputTransition(base, act, layout.norm)
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

    def construct(self, x: Tensor) -> Tensor:
        if x.shape[2] % 16 != 0 or x.shape[3] % 16 != 0 or x.shape[4] % 16 != 0:
            raise ValueError(f"V-Net input of shape {x.shape}: every volume axis must be a multiple of 16")
        skips = [self.input(x)]
        for down in self.downs:
            skips.append(down(skips[-1]))
        x = skips[STAGES]
        for i, up in enumerate(self.ups):
            x = up(x, skips[STAGES - 1 - i])
        return self.output(x)
