"""3-D U-Net for brain tumours in four modalities, as a list of blocks that can be cut in two at any place.

Its convolutions lose voxels at the borders and regain them, so sizes are particular: X and Y are multiples of 8 from
16 on, Z is one less than a multiple of 4 from 7 on (240 x 240 x 155 among them). For that size:

    encoder  conv 3³ 8; conv 3³ 16; conv 3 x 3 x 2 16: 238 x 238 x 154 (skip 1); conv 3 x 3 x 1 stride 2
             32: 118 x 118 x 77 (skip 2); the same 64: 58 x 58 x 39 (skip 3); max-pool 2 x 2 x 1
    decoder  up 2 x 2 x 1 and 3 x 3 x 1 64; + skip 3; up 2³ and 3 x 3 x 1 32: 118 x 118 x 78; conv 3³ 32: 116 x 116 x
             76; 3 x 3 x 2 16: 118 x 118 x 77; + skip 2; up 2³ and 3 x 3 x 1 16: 238 x 238 x 154; + skip 1;
             3 x 3 x 1 8: 240 x 240 x 154; 1 x 1 x 5 4: 240 x 240 x 158; conv 1 x 1 x 4 1: 240 x 240 x 155

with ReLU after each convolution but the last, which gives the logit, and batch norm before each stage.
"""

from mindspore import Tensor, nn, ops

from src import ops as layers

MODALITIES = 4
ENCODER_PARAMETERS = 32_664  # 280 of them moving statistics of batch norm, which are not trained
DECODER_PARAMETERS = 121_373  # 608 of them such


class Block(nn.Cell):
    """norm_out(relu(conv(norm_in(x)))) on the last of the live tensors, or on it joined to the one before.

    Input: a tuple of live tensors (N, C, X, Y, Z), the skips first and the volume last, and whether the pass counts
    (see `ops.norm.VolumeNorm`). Output: the live tensors after the block.

    Args:
        conv: of any size.
        norm_in, norm_out: channels of the batch norm before and after; 0 for none.
        join: take the last skip into the volume's channels first.
        keep: leave the volume that came in among the live tensors, as a skip.
        pool: make what comes out a skip, and its max-pooling 2 x 2 x 1 the volume.
        act: ReLU after the convolution.
    """

    def __init__(self, conv: nn.Cell, norm_in: int = 0, norm_out: int = 0, join: bool = False, keep: bool = False,
                 pool: bool = False, act: bool = True):
        super().__init__()
        self.conv = conv
        self.has_norm_in, self.has_norm_out = norm_in > 0, norm_out > 0
        if norm_in:
            self.norm_in = layers.VolumeNorm(norm_in)
        if norm_out:
            self.norm_out = layers.VolumeNorm(norm_out, relu=act)
        if pool:
            self.max_pool = nn.MaxPool3d((2, 2, 1), (2, 2, 1))
        self.join, self.keep, self.pool, self.act = join, keep, pool, act

    def construct(self, live: tuple[Tensor, ...], counts: bool = True) -> tuple[Tensor, ...]:
        x, rest = live[-1], live[:-1]
        if self.join:
            x, rest = ops.cat((x, rest[-1]), axis=1), rest[:-1]
        if self.keep:
            rest = live
        if self.has_norm_in:
            x = self.norm_in(x, counts)
        x = self.conv(x)
        if self.has_norm_out:
            x = self.norm_out(x, counts)  # and the activation
        elif self.act:
            x = ops.relu(x)
        if self.pool:
            return rest + (x, self.max_pool(x))
        return rest + (x,)


class Encoder(nn.Cell):
    """(N, 4, X, Y, Z) -> (bottom, skip1, skip2, skip3)."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.CellList([
            Block(_conv(MODALITIES, 8, (3, 3, 3), same=True), norm_in=MODALITIES),
            Block(_conv(8, 16, (3, 3, 3), same=True), norm_in=8),
            Block(_conv(16, 16, (3, 3, 2)), norm_in=16, norm_out=16),
            Block(_conv(16, 32, (3, 3, 1), stride=2), norm_out=32, keep=True),
            Block(_conv(32, 64, (3, 3, 1), stride=2), norm_out=64, keep=True, pool=True)])

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        live = run_blocks(self.blocks, (x,), True)
        return live[3], live[0], live[1], live[2]


class Decoder(nn.Cell):
    """(bottom, skip1, skip2, skip3) -> logit (N, 1, X, Y, Z)."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.CellList([
            Block(layers.UpConv3dTranspose(64, 64, (3, 3, 1), (2, 2, 1), same=True), norm_in=64),
            Block(layers.UpConv3dTranspose(128, 32, (3, 3, 1), (2, 2, 2)), join=True, norm_in=128),
            Block(_conv(32, 32, (3, 3, 3))),
            Block(_transposed(32, 16, (3, 3, 2)), norm_in=32),
            Block(layers.UpConv3dTranspose(48, 16, (3, 3, 1), (2, 2, 2)), join=True, norm_in=48),
            Block(_transposed(32, 8, (3, 3, 1)), join=True, norm_in=32),
            Block(_transposed(8, 4, (1, 1, 5))),
            Block(_conv(4, 1, (1, 1, 4)), act=False)])

    def construct(self, bottom: Tensor, skip1: Tensor, skip2: Tensor, skip3: Tensor) -> Tensor:
        return run_blocks(self.blocks, (skip1, skip2, skip3, bottom), True)[0]


class UNet3d(nn.Cell):
    """Encoder and decoder: (N, 4, X, Y, Z) -> logit (N, 1, X, Y, Z) of a voxel being tumour.

    Raises:
        ValueError: a size that `config.unet3d_size_problem` finds fault with, or another number of channels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()

    def construct(self, x: Tensor) -> Tensor:
        if x.shape[1] != MODALITIES:
            raise ValueError(f"3-D U-Net input of shape {x.shape}: expected 4 channels")
        if (x.shape[2] % 8 != 0 or x.shape[3] % 8 != 0 or x.shape[4] % 4 != 3 or x.shape[2] < 16 or x.shape[3] < 16
                or x.shape[4] < 7):
            raise ValueError(f"3-D U-Net input of shape {x.shape}: X and Y have to be multiples of 8 from 16 on, Z one "
                             "less than a multiple of 4 from 7 on")
        bottom, skip1, skip2, skip3 = self.encoder(x)
        return self.decoder(bottom, skip1, skip2, skip3)

    def blocks(self) -> list[nn.Cell]:
        """Return all blocks in order; between any two of them the network can be cut.

        Each takes the live tensors and gives those of the next: (image,) at first, (logit,) at last.
        """
        return [*self.encoder.blocks, *self.decoder.blocks]


def run_blocks(blocks: nn.CellList, live: tuple[Tensor, ...], counts: bool) -> tuple[Tensor, ...]:
    """Return the live tensors after `blocks`; `counts` as in `ops.norm.VolumeNorm`."""
    for block in blocks:
        live = block(live, counts)
    return live


def _conv(channels: int, out_channels: int, kernel: tuple[int, int, int], stride: int = 1,
          same: bool = False) -> nn.Cell:
    padding = tuple(k // 2 if same else 0 for k in kernel for _ in range(2))
    return layers.Conv3d(channels, out_channels, kernel, stride, pad_mode="pad", padding=padding, has_bias=True,
                         weight_init="he_normal", bias_init="zeros")


def _transposed(channels: int, out_channels: int, kernel: tuple[int, int, int]) -> nn.Cell:
    """Return a transposed convolution of stride 1, which adds `kernel` - 1 voxels."""
    return layers.Conv3dTranspose(channels, out_channels, kernel, pad_mode="valid", has_bias=True,
                                  weight_init="he_normal", bias_init="zeros")
