"""The same network from operators that ONNX exporters know."""

import copy
from typing import Any

from mindspore import nn

from src.ops.activation import ExportableELU


def exportable(network: nn.Cell) -> nn.Cell:
    """Return a copy of `network`, weights included, in which every `nn.ELU` is an `ExportableELU`.

    MindSpore's ONNX exporter has no ELU. The copy computes the same up to rounding (about 1e-6); `network`
    itself stays as it is.

    Raises:
        ValueError: an ELU has another alpha than 1, or `network` itself is an ELU.
    """
    if isinstance(network, nn.ELU):
        raise ValueError("a bare ELU has no parent to swap it in; wrap it in a cell")
    twin = copy.deepcopy(network)
    _swap(twin)
    return twin


def _swap(cell: nn.Cell) -> None:
    container = isinstance(cell, (nn.SequentialCell, nn.CellList))
    children: list[tuple[Any, nn.Cell]] = list(enumerate(cell)) if container else list(cell.name_cells().items())
    for key, child in children:
        if not isinstance(child, nn.ELU):
            _swap(child)
            continue
        if child.elu.alpha != 1.0:
            raise ValueError(f"ELU {key!r} has alpha {child.elu.alpha}; only alpha 1 has an exportable form")
        if container:
            cell[key] = ExportableELU()  # containers keep a second list of their children, which setattr misses
        else:
            setattr(cell, key, ExportableELU())
