"""From gradients to new parameters: unscale, measure, clip, decay, and skip what overflowed."""

from collections.abc import Mapping
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from src.ops import select
from src.ops.adam import AdamKernels
from src.training.optimizer import decays

_CLIP_EPSILON = 1e-6  # keeps the factor finite where all gradients are zero


def build_update(optimizer: nn.Optimizer, recipe: Mapping[str, Any], scaling: bool) -> nn.Cell:
    """Return the update step for an optimiser: on the CPU kernels for Adam where they are in use, else MindSpore's.

    Both take gradients (a tuple, one for each of the optimiser's parameters, of `scale` times the loss), the rate and
    the scale (fp32 scalars), and return the global gradient norm before clipping and whether the update was applied:
    not if any gradient is NaN or infinite, and then nothing has changed.

    Args:
        optimizer: whose parameters are updated.
        recipe: `optimizer`, `weight_decay`, `grad_clip` count.
        scaling: whether scales other than 1 occur.
    """
    decay = recipe["weight_decay"] if recipe["optimizer"] == "adamw" else 0.0
    kernels = select.kernels()
    if kernels is not None and kernels.has_blocked and isinstance(optimizer, nn.Adam):
        return KernelUpdate(str(kernels.path), optimizer, recipe["grad_clip"], decay)
    return StockUpdate(optimizer, recipe["grad_clip"], decay, scaling)


class StockUpdate(nn.Cell):
    """The update on MindSpore's operators; see `build_update`."""

    def __init__(self, optimizer: nn.Optimizer, clip_norm: float, decay: float, scaling: bool):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.decay = decay
        self.decayed = tuple(p for p in optimizer.parameters if decays(p))
        self.scaling = scaling
        self.map = ops.HyperMap()

    def construct(self, gradients: tuple[Tensor, ...], rate: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        ops.assign(self.optimizer.learning_rate, rate)
        if self.scaling:
            gradients = self.map(ops.partial(_multiply, 1.0 / scale), gradients)
        norm = ops.sqrt(ops.addn(self.map(_squared_sum, gradients)))
        # The norm is finite only if every gradient is.
        finite = ops.isfinite(norm)
        if finite:
            if self.clip_norm > 0:
                gradients = self.map(ops.partial(_multiply, _shrink(self.clip_norm, norm)), gradients)
            if self.decay > 0:
                self.map(ops.partial(_decay, 1.0 - rate * self.decay), self.decayed)
            self.optimizer(gradients)
        return norm, finite


class KernelUpdate(nn.Cell):
    """The update on the CPU kernels, in two passes over memory; see `build_update`."""

    def __init__(self, library: str, optimizer: nn.Adam, clip_norm: float, decay: float):
        super().__init__(auto_prefix=False)
        self.adam = AdamKernels(library, optimizer, [decay * decays(p) for p in optimizer.parameters])
        self.clip_norm = clip_norm

    def construct(self, gradients: tuple[Tensor, ...], rate: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        ops.assign(self.adam.optimizer.learning_rate, rate)
        norm = self.adam.norm(gradients) / scale
        finite = ops.isfinite(norm)
        factor = 1.0 / scale
        if self.clip_norm > 0:
            factor = factor * _shrink(self.clip_norm, norm)
        updated = self.adam(gradients, rate, factor, finite)
        return ops.depend(norm, updated), finite


def _shrink(clip_norm: float, norm: Tensor) -> Tensor:
    return ops.minimum(clip_norm / (norm + _CLIP_EPSILON), Tensor(1.0, ms.float32))


def _multiply(factor: Tensor, gradient: Tensor) -> Tensor:
    return gradient * factor.astype(gradient.dtype)


def _squared_sum(gradient: Tensor) -> Tensor:
    return ops.reduce_sum(ops.square(gradient.astype("float32")))


def _decay(factor: Tensor, parameter: Parameter) -> Tensor:
    return ops.assign(parameter, parameter * factor)
