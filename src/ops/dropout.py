"""Channel dropout whose masks come from a saved counter.

MindSpore's CPU generators cannot be saved and restored, so a resumed run would draw other masks than an
uninterrupted one. Here a mask is a pure function of (seed, step counter, sample, channel), and the counter is a
parameter that goes into the checkpoint.
"""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from src.ops.volume import ScaleChannels, channels_of

_MODULUS = 2**31 - 1
# Multipliers of full-period Lehmer generators modulo 2^31 - 1: Park and Miller (1988, 1993) and L'Ecuyer (1999).
_MULTIPLIERS = (48271, 69621, 39373)


class ChannelDropout(nn.Cell):
    """Zero whole channels with a probability and scale the others up; nothing at evaluation.

    As `Dropout2d` and `Dropout3d` in other frameworks (Tompson et al., 2015). Input and output (N, C, X, Y, Z) or
    (N, C, H, W), in either layout (see volume.py).

    Args:
        probability: of a channel to be zeroed, 0 <= probability < 1.
        seed: makes the masks of this layer (and rank) differ from those of others.

    Raises:
        ValueError: probability outside [0, 1).
    """

    def __init__(self, probability: float, seed: int):
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"dropout probability: found {probability}, expected 0 <= probability < 1")
        self.probability = probability
        self.threshold = int(round(probability * _MODULUS))
        self.scale = 1.0 / (1.0 - probability)
        self.seed = _scramble_int(seed)
        self.multiply = ScaleChannels()
        self.counter = Parameter(Tensor(0, ms.int64), name="counter", requires_grad=False)

    def construct(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        return self.multiply(x, self.keep(x))

    def keep(self, x: Tensor) -> Tensor:
        """Return what the channels of `x` are to be multiplied by, (N, C) fp32, and count on to the next mask.

        Only for training: at evaluation every channel is kept.
        """
        samples, channels = x.shape[0], channels_of(x)
        index = ops.arange(0, samples * channels).astype(ms.int64)
        # Squaring breaks the lattice that a purely linear recurrence leaves between neighbouring channels;
        # all products stay below 2^63, so int64 never wraps and every device draws the same mask.
        value = (index * _MULTIPLIERS[0] + self.counter * _MULTIPLIERS[1] + self.seed) % _MODULUS
        for multiplier in _MULTIPLIERS:
            value = ((value * value) % _MODULUS * multiplier + self.seed) % _MODULUS
        ops.assign_add(self.counter, Tensor(1, ms.int64))
        return ((value >= self.threshold).astype(ms.float32) * self.scale).reshape(samples, channels)


def _scramble_int(seed: int) -> int:
    value = seed % _MODULUS
    for multiplier in _MULTIPLIERS:
        value = (value * multiplier + 12345) % _MODULUS
    return value
