"""Training with micro-batches: on one device, or with the network split over two ranks that work at the same time.

A step takes M micro-batches. Each passes the network on its own, batch norm included, and the mean of their gradients
makes the update. On two ranks the first has the blocks up to the split and the second the others. The schedule is 1F1B
(Narayanan et al. 2019, "PipeDream"; flushed at each step, so that gradients are those of one device):

    rank 0   F1 F2 B1 F3 B2 F4 B3 .. B4        F, B: forward and backward of a micro-batch
    rank 1      FB1   FB2   FB3   FB4          .: waits

docs/pipeline.md tells what it gains.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from src.errors import UserError
from src.networks.unet3d import UNet3d
from src.training.optimizer import build_optimizer
from src.training.pipeline_channel import Channel
from src.training.pipeline_stage import LastStage, Stage, live_tensors
from src.training.train_step import TrainStep
from src.training.update import build_update

_CLIP_EPSILON = 1e-6  # keeps the factor finite where all gradients are zero


@dataclass
class StageTimes:
    """What a rank did since the run began.

    Attributes:
        steps: number of them.
        seconds: in steps, all told.
        busy: of these, in the stage's graphs and the update; the rest is waiting for the other rank.
    """

    steps: int = 0
    seconds: float = 0.0
    busy: float = 0.0


class MicroBatchStep(nn.Cell):
    """Train a network of blocks on M micro-batches a step; a stand-in for `TrainStep`, called and saved like it.

    Called with image (M * N, 4, X, Y, Z), label (M * N, X, Y, Z) and the rate (scalar fp32); of a pipeline the first
    rank needs the images alone, and the second the labels. Returns the mean loss, whether the update was applied
    (False: a gradient was NaN or infinite), the global gradient norm before clipping, and the loss scale, 1. Both ranks
    return the same.

    Its parameters are those of this rank's stage and of its optimiser; after `exchange`, on both ranks, those of the
    whole network. They have the names that `TrainStep` gives them: a run may go on with one device or two.

    Args:
        network: gives its `blocks()`.
        loss: of (logits, label), a scalar.
        recipe: `micro_batches`, `optimizer`, `weight_decay`, `momentum`, `grad_clip` count.
        rank: 0 or 1 in a pipeline.
        split: number of blocks of the first rank; 0 for all on one device.
        channel: to the other rank, in a pipeline.
    """

    def __init__(self, network: UNet3d, loss: nn.Cell, recipe: Mapping[str, Any], rank: int = 0, split: int = 0,
                 channel: Channel | None = None):
        super().__init__(auto_prefix=False)
        blocks = network.blocks()
        self.rank, self.split, self.channel = rank, split, channel
        self.micro_batches = recipe["micro_batches"]
        self.clip_norm = recipe["grad_clip"]
        own, other = (blocks, []) if not split else (blocks[:split], blocks[split:])
        if rank == 1:
            own, other = other, own
        self.own = nn.CellList(own, auto_prefix=False)
        self.stage: Any = (Stage(own) if split and rank == 0 else
                           LastStage(own, loss, live_tensors(blocks, split) if split else 0))
        self.optimizer = build_optimizer(recipe, self.own)
        # Clipping goes by the norm over both ranks, which comes in through the scale.
        self.update = _Update(build_update(self.optimizer, {**recipe, "grad_clip": 0.0}, scaling=True))
        # As in a checkpoint of `TrainStep`.
        self.loss_scale = Parameter(Tensor(1.0, ms.float32), name="loss_scale", requires_grad=False)
        self.good_steps = Parameter(Tensor(0, ms.int32), name="good_steps", requires_grad=False)
        self.times = StageTimes()
        self._others = _OtherRank(other, recipe, _with_optimizer(self.own, self.optimizer)) if split else None

    def __call__(self, image: Tensor, label: Tensor, rate: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        began = time.perf_counter()
        losses, gradients = self._run(image.asnumpy(), label.asnumpy())
        mean = [gradient / np.float32(self.micro_batches) for gradient in gradients]
        squares = sum(float(np.sum(np.square(gradient, dtype=np.float64))) for gradient in mean)
        loss, squares = self._agree(sum(losses) / self.micro_batches, squares)
        norm = math.sqrt(squares) if math.isfinite(squares) else math.nan
        finite = math.isfinite(norm)
        if finite:
            factor = min(1.0, self.clip_norm / (norm + _CLIP_EPSILON)) if self.clip_norm > 0 else 1.0
            self._busy(self.update, rate, Tensor(1 / factor, ms.float32), *(Tensor(gradient) for gradient in mean))
        self.times.steps += 1
        self.times.seconds += time.perf_counter() - began
        return (Tensor(loss, ms.float32), Tensor(finite), Tensor(norm, ms.float32), Tensor(1.0, ms.float32))

    def get_parameters(self, expand: bool = True) -> Any:
        """Return this rank's parameters and, once there was an exchange, the other's."""
        yield from super().get_parameters(expand)
        if self._others is not None and self._others.known:
            yield from self._others.parameters.values()

    def exchange(self) -> None:
        """Let both ranks know all parameters, optimiser included; both have to call it at the same point."""
        if self.channel is None or self._others is None:
            return
        self.channel.send([Tensor(parameter.asnumpy().copy()) for parameter in self._others.told])
        self._others.take(self.channel.receive())
        self.channel.wait()

    def _run(self, image: np.ndarray, label: np.ndarray) -> tuple[list[float], list[np.ndarray]]:
        """Pass all micro-batches through this rank's stage; returns losses and the sums of the gradients."""
        losses: list[float] = []
        total: list[np.ndarray] = []
        if self.split and self.rank == 0:
            self._run_first(_parts(image, self.micro_batches), total)
            return losses, total
        labels = _parts(label, self.micro_batches)
        images = [] if self.split else _parts(image, self.micro_batches)
        for number, part in enumerate(labels):
            live = self.channel.receive() if self.split and self.channel else [Tensor(images[number])]
            loss, back, gradients = self._busy(self.stage, Tensor(part), *live)
            if self.split and self.channel:
                self.channel.send(back)
            losses.append(float(loss.asnumpy()))
            _add(total, gradients)
        return losses, total

    def _run_first(self, images: Sequence[np.ndarray], total: list[np.ndarray]) -> None:
        assert self.channel is not None
        kept: list[Tensor] = []
        for number in range(len(images) + 1):
            if number < len(images):
                kept.append(Tensor(images[number]))
                self.channel.send(self._busy(self.stage.run_forward, [kept[-1]]))
            if number > 0:
                sens = self.channel.receive()
                _add(total, self._busy(self.stage.run_backward, [kept.pop(0)], sens)[1])

    def _agree(self, loss: float, squares: float) -> tuple[float, float]:
        """Return loss and squared norm over both ranks; the first rank has no loss."""
        if self.channel is None:
            return loss, squares
        # Rounded before they are added, so that both ranks get the same sums.
        own = np.array([loss, squares], np.float32)
        self.channel.send([Tensor(own)])
        both = own.astype(np.float64) + self.channel.receive()[0].asnumpy()
        self.channel.wait()  # the other rank has taken all of this step
        return float(both[0]), float(both[1])

    def _busy(self, compute: Any, *arguments: Any) -> Any:
        """Call a graph and count its time, which says something on CPU: results are there when it returns."""
        began = time.perf_counter()
        result = compute(*arguments)
        self.times.busy += time.perf_counter() - began
        return result


class _Update(nn.Cell):
    """The update with one argument a gradient: MindSpore takes the tensors of a tuple for constants, and compiles anew
    for others."""

    def __init__(self, update: nn.Cell):
        super().__init__(auto_prefix=False)
        self.update = update

    def construct(self, rate: Tensor, scale: Tensor, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return self.update(gradients, rate, scale)


class _OtherRank:
    """Parameters of the other stage and its optimiser, under their names, as they come in.

    Those that both ranks have, as the count of steps, stay each rank's own: an update is applied by both or by none.

    Attributes:
        parameters: of the other rank, by name.
        told: this rank's, that the other one is told, in the order of their names.
        known: whether the other rank's came in.
    """

    def __init__(self, blocks: Sequence[nn.Cell], recipe: Mapping[str, Any], own: Mapping[str, Parameter]):
        cells = nn.CellList(list(blocks), auto_prefix=False)
        other = _with_optimizer(cells, build_optimizer(recipe, cells))
        self.parameters = {name: parameter for name, parameter in other.items() if name not in own}
        self.told = [own[name] for name in sorted(own) if name not in other]
        self.known = False

    def take(self, values: Sequence[Tensor]) -> None:
        for name, value in zip(sorted(self.parameters), values, strict=True):
            self.parameters[name].set_data(Tensor(value.asnumpy().copy()))
        self.known = True


def build_single_step(network: nn.Cell, loss: nn.Cell, recipe: Mapping[str, Any], backend: Any) -> nn.Cell:
    """Return the step of a recipe that one process, or data-parallel ranks, train: `TrainStep` for one micro-batch.

    Raises:
        UserError: several micro-batches with data-parallel ranks or in half precision.
    """
    if recipe.get("micro_batches", 1) == 1:
        return TrainStep(network, loss, recipe, backend)
    check_micro_batches(recipe, backend)
    if backend.world_size > 1:
        raise UserError(f"micro_batches={recipe['micro_batches']} with parallel=data on {backend.world_size} ranks: "
                        "expected 1; use batch_size, or parallel=pipeline on 2 ranks")
    assert isinstance(network, UNet3d)
    return MicroBatchStep(network, loss, recipe)


def check_micro_batches(recipe: Mapping[str, Any], backend: Any) -> None:
    """Refuse what steps of several micro-batches, and pipelines, cannot do.

    Raises:
        UserError: half precision.
    """
    if backend.amp_level != "O0":
        raise UserError(f"amp_level {backend.amp_level} (of recipe key 'amp_level': {recipe['amp_level']!r}) with "
                        "micro-batches or a pipeline: expected O0, they compute in fp32; give --set amp_level=O0")


def _parts(array: np.ndarray, count: int) -> list[np.ndarray]:
    size = len(array) // count
    return [array[i * size:(i + 1) * size] for i in range(count)]


def _add(total: list[np.ndarray], gradients: Sequence[Tensor]) -> None:
    values = [gradient.asnumpy() for gradient in gradients]
    if not total:
        total += [value.copy() for value in values]
    else:
        for before, value in zip(total, values, strict=True):
            before += value


def _with_optimizer(cells: nn.Cell, optimizer: nn.Cell) -> dict[str, Parameter]:
    return {parameter.name: parameter for cell in (cells, optimizer) for parameter in cell.get_parameters()}
