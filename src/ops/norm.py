"""Batch norm over volumes: each rank's own, or over all ranks."""

import mindspore as ms
from mindspore import Tensor, nn, ops


class SyncBatchNorm3d(nn.BatchNorm3d):
    """Batch norm whose statistics are those of the batches of all ranks (Ioffe and Szegedy 2015; Peng et al. 2018).

    Parameters, their names, and evaluation are `nn.BatchNorm3d`'s, so a checkpoint fits both. Every rank has to have
    a batch of the same size. Works on every back end: MindSpore's own `nn.SyncBatchNorm` is not for CPU.

    Input and output: (N, channels, X, Y, Z) fp32.

    Args:
        channels: of the volumes.
        ranks: number of processes that train together.
    """

    # Not super() below: MindSpore's parser takes that for the parent of the cell's own class.
    stock = nn.BatchNorm3d.construct

    def __init__(self, channels: int, ranks: int):
        super().__init__(channels)
        self.ranks = ranks
        self.normalise = _Normalise(ranks, self.bn2d.eps)

    def construct(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.stock(x)
        norm = self.bn2d
        y, mean, variance = self.normalise(x.astype(ms.float32), norm.gamma, norm.beta)
        # As nn.BatchNorm3d: `momentum` weighs the new value, and the moving variance is unbiased.
        count = self.ranks * (x.size // x.shape[1])
        unbiased = ops.stop_gradient(variance) * (count / (count - 1))
        ops.assign(norm.moving_mean, (1.0 - norm.momentum) * norm.moving_mean
                   + norm.momentum * ops.stop_gradient(mean))
        ops.assign(norm.moving_variance, (1.0 - norm.momentum) * norm.moving_variance + norm.momentum * unbiased)
        return y


class _Normalise(nn.Cell):
    """(x, gamma, beta) -> the normalised x, and each channel's mean and variance (biased) over all ranks."""

    def __init__(self, ranks: int, epsilon: float):
        super().__init__()
        self.ranks = ranks
        self.epsilon = epsilon
        self.sum_over_ranks = ops.AllReduce(ops.ReduceOp.SUM)

    def construct(self, x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = self.sum_over_ranks(_channel_mean(x)) / self.ranks
        centred = x - _column(mean)
        # From centred values, at the cost of a second message: E[x²] - E[x]² loses digits in fp32.
        variance = self.sum_over_ranks(_channel_mean(centred * centred)) / self.ranks
        scale = gamma * ops.rsqrt(variance + self.epsilon)
        return centred * _column(scale) + _column(beta), mean, variance

    def bprop(self, x: Tensor, gamma: Tensor, beta: Tensor, out: tuple[Tensor, Tensor, Tensor],
              dout: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient at x of the losses of all ranks, at gamma and beta of this rank's own.

        The mean over ranks that all parameters' gradients go through makes the latter those of the mean loss.
        """
        dy, channels = dout[0], x.shape[1]
        inverse = ops.rsqrt(out[2] + self.epsilon)
        normalised = (x - _column(out[1])) * _column(inverse)
        own = ops.cat((_channel_mean(dy), _channel_mean(dy * normalised)))
        means = self.sum_over_ranks(own) / self.ranks
        dx = _column(gamma * inverse) * (dy - _column(means[:channels]) - normalised * _column(means[channels:]))
        sums = own * (x.size // channels)
        return dx, sums[channels:], sums[:channels]


def batch_norm(channels: int, ranks: int = 1) -> nn.Cell:
    """Return batch norm for volumes of `channels`, with the statistics of `ranks` processes taken together."""
    return nn.BatchNorm3d(channels) if ranks == 1 else SyncBatchNorm3d(channels, ranks)


def _channel_mean(x: Tensor) -> Tensor:
    """Return the mean of each channel, (C,); in two steps, since one fp32 sum over millions of voxels loses digits."""
    return x.reshape((x.shape[0], x.shape[1], x.shape[2], -1)).mean(3).mean((0, 2))


def _column(values: Tensor) -> Tensor:
    """Return (C,) values so that they meet the channels of (N, C, X, Y, Z)."""
    return values.reshape((1, -1, 1, 1, 1))
