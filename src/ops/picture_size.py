"""Pictures made smaller and larger, and gates; either layout, see picture.py."""

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from src.ops import select


class PoolFork(nn.Cell):
    """x -> (x, max-pooling of x): what goes on and what stays behind as a skip connection.

    On the CPU kernels the gradients of both meet in one pass. A window's gradient goes to the first of its largest
    pixels.

    Args:
        size: edge of the window, 2, or 3 with a border of one pixel; the stride is 2.
    """

    def __init__(self, size: int = 2):
        super().__init__()
        library = select.kernels()
        self.kernel = None
        if library is not None and library.has_blocked:
            self.kernel = _PoolKernel(str(library.path), size)
        self.stock = nn.MaxPool2d(2, 2) if size == 2 else nn.MaxPool2d(size, 2, pad_mode="pad", padding=size // 2)

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.kernel is not None and x.ndim == 6:
            return self.kernel(x)
        return x, self.stock(x)


class _PoolKernel(nn.Cell):
    """The same for blocked pictures."""

    def __init__(self, library: str, size: int):
        super().__init__()
        pad = (size - 1) // 2
        self.window = Tensor(np.array([size, 2, pad], np.int64))

        def pooled_shape(window: Any, x: Any) -> Any:
            return [*x[:3], *((n + 2 * pad - size) // 2 + 1 for n in x[3:5]), x[5]]

        def like_x(window: Any, dy: Any, x: Any, *_: Any) -> Any:
            return x

        self.pool = ops.Custom(f"{library}:PicturePool", pooled_shape, _float, "aot")
        self.back = ops.Custom(f"{library}:PicturePoolBackward", like_x, _float, "aot")
        for operator in (self.pool, self.back):
            operator.add_prim_attr("form", str(size))

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.pool(self.window, x)

    def bprop(self, x: Tensor, out: tuple[Tensor, Tensor], dout: tuple[Tensor, Tensor]) -> tuple[Tensor]:
        return (self.back(self.window, dout[1], x, out[1], dout[0]),)


class Stretch(nn.Cell):
    """Twice the size, bilinear with half-pixel centres.

    A new pixel is 3/4 of the nearer old one and 1/4 of the farther along each axis; at the border the nearer counts
    twice. ("Bilinear" with align_corners=False in other frameworks; it does the same at every size.)
    """

    def __init__(self) -> None:
        super().__init__()
        library = select.kernels()
        self.kernel: Any = None
        if library is not None and library.has_blocked:
            path = str(library.path)

            def larger(x: Any) -> Any:
                return [*x[:3], 2 * x[3], 2 * x[4], x[5]]

            def like_x(dy: Any, x: Any) -> Any:
                return x

            back = ops.Custom(f"{path}:PictureStretchBackward", like_x, _float, "aot")

            def bprop(x: Any, out: Any, dout: Any) -> Any:
                return (back(dout, x),)

            self.kernel = ops.Custom(f"{path}:PictureStretch", larger, _float, "aot", bprop)

    def construct(self, x: Tensor) -> Tensor:
        if self.kernel is not None and x.ndim == 6:
            return self.kernel(x)
        n, c, h, w = x.shape
        before, after = x, x  # of a single row, as at the border
        if h > 1:
            before, after = ops.cat((x[:, :, :1], x[:, :, :-1]), 2), ops.cat((x[:, :, 1:], x[:, :, -1:]), 2)
        x = ops.cat((_mixed(x, before).reshape((n, c, h, 1, w)), _mixed(x, after).reshape((n, c, h, 1, w))), 3)
        x = x.reshape((n, c, 2 * h, w))
        before, after = x, x
        if w > 1:
            before, after = ops.cat((x[..., :1], x[..., :-1]), 3), ops.cat((x[..., 1:], x[..., -1:]), 3)
        x = ops.cat((_mixed(x, before).reshape((n, c, 2 * h, w, 1)), _mixed(x, after).reshape((n, c, 2 * h, w, 1))), 4)
        return x.reshape((n, c, 2 * h, 2 * w))


class Gate(nn.Cell):
    """x * gate, x a picture in either layout, gate (N, 1, H, W) plain."""

    def __init__(self) -> None:
        super().__init__()
        library = select.kernels()
        self.kernel: Any = None
        if library is not None and library.has_blocked:
            path = str(library.path)

            def like_x(x: Any, gate: Any) -> Any:
                return x

            def both(dy: Any, x: Any, gate: Any) -> Any:
                return x, gate

            def two(*_: Any) -> Any:
                return ms.float32, ms.float32

            back = ops.Custom(f"{path}:PictureGateBackward", both, two, "aot")

            def bprop(x: Any, gate: Any, out: Any, dout: Any) -> Any:
                dx, dgate = back(dout, x, gate)
                return dx, dgate

            self.kernel = ops.Custom(f"{path}:PictureGate", like_x, _float, "aot", bprop)

    def construct(self, x: Tensor, gate: Tensor) -> Tensor:
        if self.kernel is not None and x.ndim == 6:
            return self.kernel(x, gate)
        return x * gate


def _mixed(near: Tensor, far: Tensor) -> Tensor:
    return 0.75 * near + 0.25 * far


def _float(*_: Any) -> Any:
    return ms.float32
