"""UNet++: Z. Zhou et al., "UNet++: A Nested U-Net Architecture for Medical Image Segmentation", DLMIA 2018 (arXiv
1807.10165)."""

from typing import Any

from mindspore import Tensor, nn

from src import ops as layers
from src.networks.blocks2d import DoubleConv, check_picture, upsampling
from src.networks.unet2d import LEVELS


class UNetPP(nn.Cell):
    """UNet++ of four halvings: (N, channels, H, W) -> logits (N, out_channels, H, W); H and W multiples of 16.

    Node (i, j) lies i halvings below the full size; (i, 0) are the encoder's, and (i, j) takes (i, 0), ..., (i, j - 1)
    and (i + 1, j - 1) upsampled. Level i has base_channels * 2^i channels.

    With deep supervision each of (0, 1), ..., (0, 4) has a head. In training their logits come as a tuple, the last
    node's first; in evaluation their mean (the paper's accurate mode). Without it the last node alone has a head.

    Args:
        channels, out_channels, base_channels, kind: as of `unet2d.UNet2d`; bilinear upsampling keeps the channels.
        deep_supervision: give every node of full size a head.

    Raises:
        ValueError: unknown upsampling, or an input of another size or number of channels.
    """

    def __init__(self, channels: int, out_channels: int = 1, base_channels: int = 32, kind: str = "transposed",
                 deep_supervision: bool = True):
        super().__init__()
        self.channels = channels
        self.deep_supervision = deep_supervision
        widths = [base_channels * 2**level for level in range(LEVELS + 1)]
        self.encoder = nn.CellList([
            DoubleConv(widths[level - 1] if level else channels, widths[level], image=level == 0)
            for level in range(LEVELS + 1)])
        self.pools = nn.CellList([layers.PoolFork() for _ in range(LEVELS)])
        ups, nodes = [], []
        for j in range(1, LEVELS + 1):
            for level in range(LEVELS + 1 - j):
                coming = widths[level + 1] if kind == "bilinear" else widths[level]
                ups.append(upsampling(kind, widths[level + 1], coming))
                nodes.append(DoubleConv((*(widths[level],) * j, coming), widths[level]))
        self.ups, self.nodes = nn.CellList(ups), nn.CellList(nodes)  # column by column, each from the full size on
        self.forks = nn.CellList([layers.fork(self._takers(level, j))
                                  for j in range(LEVELS + 1) for level in range(LEVELS + 1 - j)])
        self.heads = nn.CellList([layers.PictureHead(widths[0], out_channels)
                                  for _ in range(LEVELS if deep_supervision else 1)])

    def _takers(self, level: int, j: int) -> int:
        """Return how many take the result of node (level, j): nodes to its right, the one above, a head."""
        has_head = level == 0 and (j == LEVELS or (self.deep_supervision and j > 0))
        return LEVELS - level - j + (level > 0) + has_head

    def construct(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        check_picture("UNet++", x.shape, self.channels, 2**LEVELS)
        # columns[j][level] is the result of node (level, j), once for each taker in the order of `_takers`.
        column: tuple[Any, ...] = ()
        for level in range(LEVELS):
            skip, x = self.pools[level](self.encoder[level](x))
            column = column + (self.forks[level](skip),)
        columns: tuple[Any, ...] = (column + (self.forks[LEVELS](self.encoder[LEVELS](x)),),)
        node = 0
        for j in range(1, LEVELS + 1):
            column = ()
            for level in range(LEVELS + 1 - j):
                inputs: tuple[Tensor, ...] = ()
                for before in range(j):
                    inputs = inputs + (columns[before][level][j - before - 1],)
                inputs = inputs + (self.ups[node](columns[j - 1][level + 1][-1]),)
                column = column + (self.forks[LEVELS + 1 + node](self.nodes[node](inputs)),)
                node += 1
            columns = columns + (column,)
        if not self.deep_supervision:
            return self.heads[0](columns[LEVELS][0][-1])
        logits: tuple[Tensor, ...] = ()
        for j in range(LEVELS, 0, -1):
            logits = logits + (self.heads[j - 1](columns[j][0][-1]),)
        if self.training:
            return logits
        total = logits[0]
        for k in range(1, LEVELS):
            total = total + logits[k]
        return total / LEVELS
