"""U-Net whose way down is a ResNet-34 (K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016)."""

from mindspore import Tensor, nn

from src import ops as layers
from src.networks.blocks2d import DoubleConv, check_picture, upsampling

RESNET34 = ((64, 3), (128, 4), (256, 6), (512, 3))  # channels and blocks of its four layers
STEM = 64


class BasicBlock(nn.Cell):
    """relu(norm(conv(relu(norm(conv(x))))) + x), 3 x 3; the first convolution may halve the size.

    Where size or channels change, a 1 x 1 convolution with batch norm brings x to them.
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.first = layers.PictureUnit(in_channels, channels, 3, stride)
        self.second = layers.PictureUnit(channels, channels, residual=True)
        changes = stride != 1 or in_channels != channels
        self.shortcut = layers.PictureUnit(in_channels, channels, 1, stride, relu=False) if changes else nn.Identity()
        self.fork = layers.fork()

    def construct(self, x: Tensor) -> Tensor:
        x, branch = self.fork(x)
        return self.second(self.first(x), self.shortcut(branch))


class ResNet34(nn.Cell):
    """The convolutions of ResNet-34: (N, channels, H, W) -> pictures at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size."""

    def __init__(self, channels: int):
        super().__init__()
        self.stem = layers.PictureUnit(channels, STEM, 7, 2, image=True)
        self.pool = layers.PoolFork(3)
        stages, before = [], STEM
        for number, (width, blocks) in enumerate(RESNET34):
            stages.append(nn.SequentialCell([
                BasicBlock(before if k == 0 else width, width, 2 if number and k == 0 else 1) for k in range(blocks)]))
            before = width
        self.layers = nn.CellList(stages)
        self.forks = nn.CellList([layers.fork() for _ in range(len(RESNET34) - 1)])

    def construct(self, x: Tensor) -> tuple[Tensor, ...]:
        skip, x = self.pool(self.stem(x))
        found: tuple[Tensor, ...] = (skip,)
        for k in range(len(RESNET34) - 1):
            x, skip = self.forks[k](self.layers[k](x))
            found = found + (skip,)
        return found + (self.layers[len(RESNET34) - 1](x),)


class ResNet34UNet(nn.Cell):
    """U-Net on ResNet-34: (N, channels, H, W) -> logits (N, out_channels, H, W); H and W multiples of 32.

    The way up doubles the size five times, to 8, 4, 2, 1 and 1/2 times `base_channels` channels, and takes the
    encoder's pictures of 1/16 to 1/2 of the size as skip connections; at full size there is none. The encoder can start
    from ImageNet weights (`pretrained.load_pretrained`).

    Args:
        channels: of the image.
        out_channels: logits.
        base_channels: see above.
        kind: of upsampling, `transposed` (to the channels of the step) or `bilinear` (keeps the channels).

    Raises:
        ValueError: unknown upsampling, or an input of another size or number of channels.
    """

    def __init__(self, channels: int, out_channels: int = 1, base_channels: int = 32, kind: str = "transposed"):
        super().__init__()
        self.channels = channels
        self.encoder = ResNet34(channels)
        skips = (256, 128, 64, STEM)
        widths = (8 * base_channels, 4 * base_channels, 2 * base_channels, base_channels, max(base_channels // 2, 1))
        ups, blocks, before = [], [], RESNET34[-1][0]
        for step, width in enumerate(widths):
            coming = before if kind == "bilinear" else width
            ups.append(upsampling(kind, before, coming))
            blocks.append(DoubleConv((skips[step], coming) if step < len(skips) else coming, width))
            before = width
        self.ups, self.blocks = nn.CellList(ups), nn.CellList(blocks)
        self.head = layers.PictureHead(before, out_channels)

    def construct(self, x: Tensor) -> Tensor:
        check_picture("ResNet-34 U-Net", x.shape, self.channels, 32)
        found = self.encoder(x)
        x = found[-1]
        for step, up in enumerate(self.ups):
            x = up(x)
            joined = (found[len(found) - 2 - step], x) if step < len(found) - 1 else (x,)
            x = self.blocks[step](joined)
        return self.head(x)
