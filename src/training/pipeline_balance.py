"""Where to cut the network in two: by the measured time of each block."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Tensor, nn

from src.training.pipeline_stage import LastStage, Stage

_REPEATS = 5  # of which the fastest counts: what disturbs a measurement makes it longer


@dataclass(frozen=True)
class BlockTimes:
    """Seconds that the blocks of a network take for one micro-batch.

    Attributes:
        forward: of each block.
        backward: of each block, its forward pass included.
    """

    forward: list[float]
    backward: list[float]

    @staticmethod
    def fastest(measured: Sequence["BlockTimes"]) -> "BlockTimes":
        """Return for each block the shortest of several measurements, such as those of both ranks."""
        return BlockTimes([min(times) for times in zip(*(each.forward for each in measured), strict=True)],
                          [min(times) for times in zip(*(each.backward for each in measured), strict=True)])

    def stages(self, split: int) -> tuple[float, float]:
        """Return what the two stages take: the first computes forward once more for its backward pass."""
        return sum(self.forward[:split]) + sum(self.backward[:split]), sum(self.backward[split:])

    def best_split(self) -> int:
        """Return the split whose slower stage is the fastest."""
        return min(range(1, len(self.forward)), key=lambda split: max(self.stages(split)))


def measure_blocks(network: Any, loss: nn.Cell, image: np.ndarray, label: np.ndarray) -> BlockTimes:
    """Time each block of the network on a micro-batch; parameters and moving statistics stay as they are.

    Args:
        network: in training mode; gives its `blocks()`.
        loss: of (logits, label).
        image: (N, 4, X, Y, Z) float32.
        label: (N, X, Y, Z) float32.
    """
    saved = {parameter.name: parameter.asnumpy().copy() for parameter in network.get_parameters()
             if not parameter.requires_grad}
    blocks = network.blocks()
    forward, backward = [], []
    live: Sequence[Tensor] = [Tensor(image)]
    for number, block in enumerate(blocks):
        stage = Stage([block], inputs=len(live) if number else 0)
        stage.set_train(True)
        forward.append(_seconds(stage.run_forward, live))
        after = stage.run_forward(live)
        if number + 1 < len(blocks):
            backward.append(_seconds(stage.run_backward, live, after))  # any gradient takes the same time
        else:
            last = LastStage([block], loss, len(live))
            last.set_train(True)
            backward.append(_seconds(last, Tensor(label), *live))
        live = after
    for parameter in network.get_parameters():
        if parameter.name in saved:
            parameter.set_data(Tensor(saved[parameter.name]))
    return BlockTimes(forward, backward)


def _seconds(compute: Callable[..., Any], *arguments: Any) -> float:
    """Return the shortest time of a call, after one that compiles."""
    times = []
    for _ in range(_REPEATS + 1):
        began = time.perf_counter()
        compute(*arguments)
        times.append(time.perf_counter() - began)
    return min(times[1:])
