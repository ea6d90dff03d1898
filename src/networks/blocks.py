"""Pieces that the volumetric networks share."""

from mindspore import Tensor, nn

from src import ops as layers


class ResidualBlock(nn.Cell):
    """act(units(dropout(x)) + x), with `count` 5³ convolutions at constant channels, each with norm and activation.

    Input and output (N, channels, X, Y, Z).

    Args:
        channels: of input and output.
        count: of convolutions, 1 or more.
        act: activation after each and after the sum, `elu` or `prelu`.
        norm: batch norm after each convolution.
        dropout: probability of a channel to be dropped on the way to the convolutions.
        seed: of the dropout masks.
    """

    def __init__(self, channels: int, count: int, act: str, norm: bool, dropout: float = 0.0, seed: int = 0):
        super().__init__()
        self.dropout = layers.ChannelDropout(dropout, seed) if dropout else nn.Identity()
        self.units = nn.CellList([layers.ConvUnit(channels, channels, 5, norm=norm, act=act)
                                  for _ in range(count - 1)])
        # A lone convolution finds the residual in its own input, which saves a pass over the volume backwards.
        self.alone = count == 1 and not dropout
        self.last = layers.ConvUnit(channels, channels, 5, norm=norm, act=act, residual_act=act,
                                    residual="own" if self.alone else "given")
        self.fork = layers.fork()

    def construct(self, x: Tensor) -> Tensor:
        if self.alone:
            return self.last(x)
        x, residual = self.fork(x)
        x = self.dropout(x)
        for unit in self.units:
            x = unit(x)
        return self.last(x, residual)
