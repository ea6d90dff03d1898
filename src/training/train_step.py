"""One optimisation step as one compiled graph: forward, backward, unscale, all-reduce, clip, update."""

from collections.abc import Mapping
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, amp, nn, ops

from src.backend import Backend
from src.training.ema import build_average
from src.training.optimizer import build_optimizer
from src.training.reduce import build_mean
from src.training.update import build_update

_GROWTH_INTERVAL = 2000  # overflow-free steps before a dynamic scale doubles (Micikevicius et al. 2018)
_LARGEST_SCALE = 2.0**24


class TrainStep(nn.Cell):
    """Train `network` on one batch.

    Called with image (N, C, X, Y, Z), label (N, X, Y, Z), or pictures (N, C, H, W) and their label (N, H, W), and the
    rate (scalar fp32); returns the loss, whether the update was applied (False: the gradients overflowed and the step
    was skipped), the global gradient norm before clipping, and the loss scale used. With several ranks loss and
    gradients are means over them, so all ranks return the same and skip the same steps. Its parameters are all that a
    checkpoint has to hold: the network's, the optimiser's, dropout counters, the loss scale, and with `ema_decay` the
    average of the weights, updated after each applied update.

    Args:
        network: gives logits, or whatever `loss` takes for them.
        loss: of (logits, label), a scalar.
        recipe: `optimizer`, `weight_decay`, `momentum`, `grad_clip`, `loss_scale`, `ema_decay` count.
        backend: `world_size`, `amp_level`, `loss_scaling` count.
    """

    def __init__(self, network: nn.Cell, loss: nn.Cell, recipe: Mapping[str, Any], backend: Backend):
        super().__init__(auto_prefix=False)
        self.network = mixed_precision(network, backend)
        self.optimizer = build_optimizer(recipe, network)
        self.parameters = self.optimizer.parameters
        self.scaling = backend.loss_scaling != "off"
        self.dynamic = backend.loss_scaling == "dynamic"
        scale = recipe["loss_scale"] if self.scaling else 1.0
        self.loss_scale = Parameter(Tensor(scale, ms.float32), name="loss_scale", requires_grad=False)
        self.good_steps = Parameter(Tensor(0, ms.int32), name="good_steps", requires_grad=False)
        self.update = build_update(self.optimizer, recipe, self.scaling)
        self.average = build_average(network, recipe)
        self.mean_over_ranks = build_mean(self.parameters, backend)
        self.forward = _ScaledLoss(self.network, loss)
        self.value_and_grad = ops.value_and_grad(self.forward, None, self.parameters, has_aux=True)

    def construct(self, image: Tensor, label: Tensor, rate: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scale = self.loss_scale + 0.0  # a copy: the parameter may change below
        (_, loss), gradients = self.value_and_grad(image, label, scale)
        gradients, loss = self.mean_over_ranks(gradients, loss)
        norm, finite = self.update(gradients, rate, scale)
        if self.average is not None:
            norm = ops.depend(norm, self.average(ops.depend(finite, norm)))
        if self.dynamic:
            self._adjust_scale(finite)
        return loss, finite, norm, scale

    def _adjust_scale(self, finite: Tensor) -> None:
        """Halve the scale after an overflow, double it after `_GROWTH_INTERVAL` steps without one."""
        if finite:
            ops.assign_add(self.good_steps, Tensor(1, ms.int32))
            if self.good_steps >= _GROWTH_INTERVAL:
                ops.assign(self.loss_scale, ops.minimum(self.loss_scale * 2.0, Tensor(_LARGEST_SCALE, ms.float32)))
                ops.assign(self.good_steps, Tensor(0, ms.int32))
        else:
            ops.assign(self.loss_scale, ops.maximum(self.loss_scale / 2.0, Tensor(1.0, ms.float32)))
            ops.assign(self.good_steps, Tensor(0, ms.int32))


def mixed_precision(network: nn.Cell, backend: Backend) -> nn.Cell:
    """Return the network as it trains at the back end's `amp_level`; parameters stay fp32.

    O2 is fp16 but for batch norm, O3 all of it, bf16 the same as O2 with bfloat16 (Ascend; not run here). On CPU bf16
    is the kernels' own affair: they store activations in it.
    """
    if backend.amp_level in ("O2", "O3"):
        return amp.auto_mixed_precision(network, backend.amp_level)
    if backend.amp_level == "bf16" and backend.device_target != "CPU":
        return amp.auto_mixed_precision(network, "O2", ms.bfloat16)
    return network


class _ScaledLoss(nn.Cell):
    """(image, label, scale) -> the scaled loss to differentiate, and the plain one to report."""

    def __init__(self, network: nn.Cell, loss: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss

    def construct(self, image: Tensor, label: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        loss = self.loss(self.network(image), label)
        return loss * scale, loss
