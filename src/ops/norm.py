"""Norms of volumes: over the batch of a rank or of all ranks, or over each sample by itself."""

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.ops import select


class VolumeNorm(nn.BatchNorm3d):
    """MindSpore's batch norm, with a ReLU before it if wanted, and the same again without counting the batch twice.

    Input: x (N, C, X, Y, Z), and whether this pass counts: in training the batch's statistics normalise either way, but
    only a pass that counts moves the moving statistics. A pipeline stage that computes its forward pass twice for one
    micro-batch, once to send and once to differentiate, counts one of them. Parameters are `nn.BatchNorm3d`'s.

    Args:
        channels: of the volumes.
        relu: normalise max(x, 0). On the CPU kernels that costs no pass of its own.
    """

    stock = nn.BatchNorm3d.construct

    def __init__(self, channels: int, relu: bool = False):
        super().__init__(channels)
        self.relu = relu
        kernels = select.kernels()
        self.served = kernels is not None and kernels.has_blocked
        if kernels is not None and kernels.has_blocked:
            self.kernel = _NormKernel(str(kernels.path), relu, self.bn2d.eps)
        self.uncounted = ops.BatchNorm(is_training=True, epsilon=self.bn2d.eps, momentum=0.0)

    def construct(self, x: Tensor, counts: bool = True) -> Tensor:
        norm = self.bn2d
        if self.training and self.served:
            y, statistics = self.kernel(x, norm.gamma, norm.beta)
            if counts:
                _move(norm, statistics[0], statistics[2])
            return y
        if self.relu:
            x = ops.relu(x)
        if counts or not self.training:
            return self.stock(x)
        shape = x.shape
        flat = x.reshape((shape[0], shape[1], shape[2] * shape[3], shape[4]))
        return self.uncounted(flat, norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)[0].reshape(shape)


class _NormKernel(nn.Cell):
    """(x, gamma, beta) -> the normalised x, and (3, C): each channel's mean, 1 / std, and unbiased variance."""

    def __init__(self, library: str, relu: bool, epsilon: float):
        super().__init__()
        self.epsilon = Tensor(np.array([epsilon], np.float32))
        name = "ReluVolumeNorm" if relu else "VolumeNorm"

        def shapes(x: Any, gamma: Any, beta: Any, epsilon: Any) -> Any:
            return x, [3, x[1]]

        def gradient_shapes(dy: Any, x: Any, gamma: Any, statistics: Any) -> Any:
            return x, gamma, gamma

        def two(*_: Any) -> Any:
            return (ms.float32,) * 2

        def three(*_: Any) -> Any:
            return (ms.float32,) * 3

        backward = ops.Custom(f"{library}:{name}Backward", gradient_shapes, three, "aot")

        def bprop(x: Any, gamma: Any, beta: Any, epsilon: Any, out: Any, dout: Any) -> Any:
            return (*backward(dout[0], x, gamma, out[1]), ops.zeros_like(epsilon))

        self.operator = ops.Custom(f"{library}:{name}", shapes, two, "aot", bprop)

    def construct(self, x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        return self.operator(x, gamma, beta, self.epsilon)


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
        count = self.ranks * (x.size // x.shape[1])
        _move(norm, mean, variance * (count / (count - 1)))
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


class InstanceNorm3d(nn.Cell):
    """Each channel of each sample normalised by its own mean and variance, in training and evaluation alike.

    Ulyanov et al. 2016, "Instance normalization". gamma * (x - mean) / sqrt(variance + 1e-5) + beta with the biased
    variance over X, Y and Z, so that what a sample becomes depends on no other. MindSpore's own is not for CPU.

    Input and output: (N, channels, X, Y, Z) fp32.

    Args:
        channels: of the volumes.
    """

    eps = 1e-5

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = Parameter(Tensor(np.ones(channels, np.float32)), name="gamma")
        self.beta = Parameter(Tensor(np.zeros(channels, np.float32)), name="beta")
        kernels = select.kernels()
        self.kernel: Any = None
        if kernels is not None and kernels.has_blocked:
            self.kernel = _NormKernel(str(kernels.path), False, self.eps)

    def construct(self, x: Tensor) -> Tensor:
        shape = x.shape
        if self.kernel is not None:
            # Batch norm of one sample whose channels are those of all samples.
            joined = x.reshape((1, shape[0] * shape[1], shape[2], shape[3], shape[4]))
            gamma, beta = ops.tile(self.gamma, (shape[0],)), ops.tile(self.beta, (shape[0],))
            return self.kernel(joined, gamma, beta)[0].reshape(shape)
        flat = x.reshape((shape[0], shape[1], shape[2] * shape[3], shape[4])).astype(ms.float32)
        # In two steps, since one fp32 sum over millions of voxels loses digits.
        centred = flat - flat.mean(3, True).mean(2, True)
        variance = (centred * centred).mean(3, True).mean(2, True)
        scale = self.gamma.reshape((1, -1, 1, 1)) * ops.rsqrt(variance + self.eps)
        return (centred * scale + self.beta.reshape((1, -1, 1, 1))).reshape(shape)


def build_norm(channels: int, kind: str = "batch", ranks: int = 1) -> nn.Cell:
    """Return the norm of volumes of `channels`: see `select.UnitOptions`, whose `norm` and `norm_ranks` these are."""
    if kind == "instance":
        return InstanceNorm3d(channels)
    return nn.BatchNorm3d(channels) if ranks == 1 else SyncBatchNorm3d(channels, ranks)


def _move(norm: nn.Cell, mean: Tensor, variance: Tensor) -> None:
    """Move the moving statistics as nn.BatchNorm3d: `momentum` weighs the new value, and the variance is unbiased."""
    mean, variance = ops.stop_gradient(mean), ops.stop_gradient(variance)
    ops.assign(norm.moving_mean, (1.0 - norm.momentum) * norm.moving_mean + norm.momentum * mean)
    ops.assign(norm.moving_variance, (1.0 - norm.momentum) * norm.moving_variance + norm.momentum * variance)


def _channel_mean(x: Tensor) -> Tensor:
    """Return the mean of each channel, (C,); in two steps, since one fp32 sum over millions of voxels loses digits."""
    return x.reshape((x.shape[0], x.shape[1], x.shape[2], -1)).mean(3).mean((0, 2))


def _column(values: Tensor) -> Tensor:
    """Return (C,) values so that they meet the channels of (N, C, X, Y, Z)."""
    return values.reshape((1, -1, 1, 1, 1))
