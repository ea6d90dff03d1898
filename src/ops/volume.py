"""Volumes between units: the two layouts, and tensors that are used twice.

Between the CPU kernels a volume is blocked, (N, C/16, X, Y, Z, 16); everywhere else it is plain, (N, C, X, Y, Z).
"""

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from src.ops import select
from src.ops.cpu.unit_op import LANES, storage_type


def channels_of(x: Tensor) -> int:
    """Return the number of channels of a volume of either layout."""
    return x.shape[1] * LANES if x.ndim == 6 else x.shape[1]


class ScaleChannels(nn.Cell):
    """Multiplies each channel of a volume or picture, of either layout, by its factor; (N, C), without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        kernels = select.kernels()
        self.blocked = None if kernels is None or not kernels.has_blocked else _channel_scale(str(kernels.path))

    def construct(self, x: Tensor, factors: Tensor) -> Tensor:
        if x.ndim == 6 and self.blocked is not None:
            return self.blocked(x, factors)
        return x * factors.reshape((x.shape[0], x.shape[1]) + (1,) * (x.ndim - 2)).astype(x.dtype)


class Layout(nn.Cell):
    """Changes a volume's layout and type; nothing where it has the one wanted already.

    Args:
        library: path of the kernel library.
        storage: of blocked volumes, `float32` or `bfloat16`; None: to the plain layout.
    """

    def __init__(self, library: str, storage: str | None = None):
        super().__init__()
        self.rank = 5 if storage is None else 6

        def blocked_shape(x: Any) -> Any:
            return [x[0], x[1] // LANES, *x[2:5], LANES]

        def plain_shape(x: Any) -> Any:
            return [x[0], x[1] * LANES, *x[2:5]]

        def to_blocked(backward: Any, blocked_type: Any) -> ops.Custom:
            def blocked_dtype(x: Any) -> Any:
                return blocked_type

            operator = ops.Custom(f"{library}:ToBlocked", blocked_shape, blocked_dtype, "aot", backward)
            # MindSpore takes operators with equal attributes for the same one, whatever their functions.
            operator.add_prim_attr("form", str(blocked_type))
            return operator

        def plain_dtype(x: Any) -> Any:
            return ms.float32

        if storage is None:
            # The gradient has to have the input's type: one operator for each storage.
            adjoint32, adjoint16 = to_blocked(None, ms.float32), to_blocked(None, ms.bfloat16)

            def bprop(x: Any, out: Any, dout: Any) -> Any:
                if x.dtype == ms.bfloat16:
                    return (adjoint16(dout),)
                return (adjoint32(dout),)

            self.change = ops.Custom(f"{library}:ToPlain", plain_shape, plain_dtype, "aot", bprop)
        else:
            adjoint = ops.Custom(f"{library}:ToPlain", plain_shape, plain_dtype, "aot")

            def bprop(x: Any, out: Any, dout: Any) -> Any:
                return (adjoint(dout),)

            self.change = to_blocked(bprop, storage_type(storage))

    def construct(self, x: Tensor) -> Tensor:
        if x.ndim == self.rank:
            return x
        return self.change(x)


class Copies(nn.Cell):
    """x -> (x, ..., x)."""

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def construct(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,) * self.count


class Fork(nn.Cell):
    """x -> (x, ..., x), for a volume with several consumers, whose gradients are added by a kernel of ours.

    MindSpore's own sum runs on one thread and has no bf16 on CPU.
    """

    def __init__(self, library: str, count: int):
        super().__init__()
        self.count = count
        self.sum = _volume_sum(library)

    def construct(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,) * self.count

    def bprop(self, x: Tensor, out: tuple[Tensor, ...], dout: tuple[Tensor, ...]) -> tuple[Tensor]:
        total = self.sum(dout[0], dout[1])
        for k in range(2, self.count):
            total = self.sum(total, dout[k])
        return (total,)


def fork(count: int = 2) -> nn.Cell:
    """Return a cell x -> (x, ..., x), `count` times: a `Fork` where the kernels are in use."""
    kernels = select.kernels()
    served = kernels is not None and kernels.has_blocked and count > 1
    return Fork(str(kernels.path), count) if served and kernels is not None else Copies(count)


def _channel_scale(library: str) -> ops.Custom:
    def like_x(x: Any, factors: Any) -> Any:
        return x

    backward = ops.Custom(f"{library}:ScaleChannels", like_x, like_x, "aot")

    def bprop(x: Any, factors: Any, out: Any, dout: Any) -> Any:
        return backward(dout, factors), ops.zeros_like(factors)

    return ops.Custom(f"{library}:ScaleChannels", like_x, like_x, "aot", bprop)


def _volume_sum(library: str) -> ops.Custom:
    def shape(a: Any, b: Any) -> Any:
        return a

    return ops.Custom(f"{library}:AddVolumes", shape, shape, "aot")
