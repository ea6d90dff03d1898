"""Adam over all parameters in one pass, for the CPU."""

from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops


class AdamKernels(nn.Cell):
    """The steps of `nn.Adam` (Kingma and Ba 2015) on that optimiser's own parameters, by the CPU kernels.

    Everything is updated in place, in one threaded pass over memory: unscaling, clipping, both kinds of weight decay,
    both moments and the weights.

    Args:
        library: path of the kernel library.
        optimizer: whose parameters, moments, powers of beta and step counter are used; what it saves and loads is
            the same on every back end.
        decoupled: for each parameter its decoupled weight decay (Loshchilov and Hutter 2019).
    """

    def __init__(self, library: str, optimizer: nn.Adam, decoupled: Sequence[float]):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        decay = [float(value) for value in optimizer.weight_decay]
        betas = [float(optimizer.beta1.asnumpy()), float(optimizer.beta2.asnumpy()), float(optimizer.eps)]
        self.config = Tensor(np.array([*betas, *decay, *decoupled], np.float32))
        self.one = Tensor([1], ms.int32)

        def single(*_: Any) -> Any:
            return [1]

        def fp32(*_: Any) -> Any:
            return ms.float32

        self.squared_norm = ops.Custom(f"{library}:SquaredNorm", single, fp32, "aot")
        self.update = ops.Custom(f"{library}:AdamUpdate", single, fp32, "aot")
        self.update.add_prim_attr("side_effect_mem", True)

    def norm(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """Return the global L2 norm of the gradients, a scalar; not finite if any of them is not."""
        return ops.sqrt(self.squared_norm(*gradients)).reshape(())

    def construct(self, gradients: tuple[Tensor, ...], rate: Tensor, factor: Tensor, finite: Tensor) -> Tensor:
        """Update with `factor` times the gradients; where `finite` is False nothing changes.

        Returns:
            A value to depend on: the number of updated values.
        """
        optimizer = self.optimizer
        flag = finite.astype(ms.int32)
        ops.assign_add(optimizer.global_step, self.one * flag)
        return self.update(self.config, rate, factor, flag.astype(ms.float32), optimizer.beta1_power,
                           optimizer.beta2_power, *optimizer.parameters, *optimizer.moment1, *optimizer.moment2,
                           *gradients)
