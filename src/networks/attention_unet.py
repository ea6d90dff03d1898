"""Attention U-Net: O. Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018 (arXiv
1804.03999)."""

from mindspore import Tensor, nn, ops

from src import ops as layers
from src.networks.blocks2d import check_picture
from src.networks.unet2d import LEVELS, Contraction, expansions, unet_widths


class AttentionGate(nn.Cell):
    """Additive attention: a skip connection times one factor a pixel, found with the coarser picture below it.

    factor = stretch(sigmoid(psi(relu(W_x skip + W_g g + b)) + c)), with W_x a 2 x 2 convolution of stride 2, which
    brings the skip connection to g's size, and W_g and psi 1 x 1 convolutions (equations 1 and 2 of the paper);
    `stretch` interpolates bilinearly.

    Input: skip (N, skip_channels, 2H, 2W), g (N, channels, H, W). Output: of the skip's shape.

    Args:
        skip_channels: of the skip connection.
        channels: of g.
        inner: channels of the sum.
    """

    def __init__(self, skip_channels: int, channels: int, inner: int):
        super().__init__()
        self.of_skip = layers.PictureUnit(skip_channels, inner, 2, 2, norm=False, relu=False)
        self.of_gate = layers.PictureUnit(channels, inner, 1, norm=False, has_bias=True, residual=True)
        self.psi = layers.PictureHead(inner, 1)
        self.fork = layers.fork()
        self.stretch = layers.Stretch()
        self.multiply = layers.Gate()

    def construct(self, skip: Tensor, g: Tensor) -> Tensor:
        skip, branch = self.fork(skip)
        factor = ops.sigmoid(self.psi(self.of_gate(g, self.of_skip(branch))))
        return self.multiply(skip, self.stretch(factor))


class AttentionUNet(nn.Cell):
    """U-Net with an attention gate on each skip connection: (N, channels, H, W) -> logits (N, out_channels, H, W).

    Arguments and sizes are those of `unet2d.UNet2d`. A gate's sum has half as many channels as its skip connection.

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
        below = [widths[LEVELS], *(max(widths[level] // 2, widths[0]) if kind == "bilinear" else widths[level]
                                   for level in reversed(range(1, LEVELS)))]
        self.gates = nn.CellList([
            AttentionGate(widths[level], channels_below, max(widths[level] // 2, 1))
            for level, channels_below in zip(reversed(range(LEVELS)), below, strict=True)])
        self.forks = nn.CellList([layers.fork() for _ in range(LEVELS)])
        self.head = layers.PictureHead(widths[0], out_channels)

    def construct(self, x: Tensor) -> Tensor:
        check_picture("attention U-Net", x.shape, self.channels, 2**LEVELS)
        x, skips = self.down(x)
        for step, up in enumerate(self.up):
            x, g = self.forks[step](x)
            x = up(x, self.gates[step](skips[LEVELS - 1 - step], g))
        return self.head(x)
