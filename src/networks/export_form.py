"""The same network in the forms that exporters take: from operators that ONNX knows, or for inputs of any size."""

import copy
from typing import Any

from mindspore import Tensor, nn, ops

from src.networks.vnet import VNet
from src.ops.activation import ExportableELU


class ExportablePool(nn.Cell):
    """Max pooling with a border of zeros, for inputs that are nowhere negative: then no border pixel is the largest.

    Args:
        pool: whose border, filled with the lowest number, it takes the place of.
    """

    def __init__(self, pool: nn.MaxPool2d):
        super().__init__()
        border = tuple((edge, edge) for edge in pool.padding[-2:])
        self.pad = ops.Pad(((0, 0), (0, 0), *border))
        self.pool = nn.MaxPool2d(pool.kernel_size, pool.stride)

    def construct(self, x: Tensor) -> Tensor:
        return self.pool(self.pad(x))


def exportable(network: nn.Cell) -> nn.Cell:
    """Return a copy of `network`, weights included, without the cells that MindSpore's ONNX exporter lacks.

    Others take their place. These are `nn.ELU`, and `nn.MaxPool2d` with a border, which our networks have behind a
    ReLU. The copy computes the same up to rounding (about 1e-6); `network` itself stays as it is.

    Raises:
        ValueError: an ELU has another alpha than 1, or `network` itself is such a cell.
    """
    if _exportable_form(network, "") is not None:
        raise ValueError(f"a bare {type(network).__name__} has no parent to swap it in; wrap it in a cell")
    twin = copy.deepcopy(network)
    _swap(twin)
    return twin


def any_size(network: VNet) -> VNet:
    """Return a copy of a V-Net, weights included, that does not look at its input's size.

    Where sizes are not known yet the check would go into the exported graph, which MindSpore cannot load then. Other
    sizes than multiples of 16 fail in it all the same, at the first concatenation. The network has to be on MindSpore's
    operators, see `ops.select.stock_kernels`: those of the CPU kernels cannot be copied.
    """
    twin = copy.deepcopy(network)
    twin.checks_size = False
    return twin


def _exportable_form(cell: nn.Cell, name: str) -> nn.Cell | None:
    """Return what takes the place of a cell; None where it stays."""
    if isinstance(cell, nn.ELU):
        if cell.elu.alpha != 1.0:
            raise ValueError(f"ELU {name!r} has alpha {cell.elu.alpha}; only alpha 1 has an exportable form")
        return ExportableELU()
    return ExportablePool(cell) if isinstance(cell, nn.MaxPool2d) and cell.use_pad else None


def _swap(cell: nn.Cell) -> None:
    container = isinstance(cell, (nn.SequentialCell, nn.CellList))
    children: list[tuple[Any, nn.Cell]] = list(enumerate(cell)) if container else list(cell.name_cells().items())
    for key, child in children:
        other = _exportable_form(child, key)
        if other is None:
            _swap(child)
        elif container:
            cell[key] = other  # containers keep a second list of their children, which setattr misses
        else:
            setattr(cell, key, other)
