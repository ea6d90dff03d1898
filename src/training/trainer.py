"""The training loop. It knows batches, steps and epochs; files, metrics and pictures are the callbacks' affair."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import mindspore as ms
from mindspore import Tensor

from src.backend import restore_interrupt
from src.data.dataset import Batch, BatchLoader
from src.errors import UserError
from src.lr_schedule import learning_rate, scale_for_ranks
from src.training.reduce import lost_rank
from src.training.train_step import TrainStep

logger = logging.getLogger(__name__)

MOST_SKIPS_IN_A_ROW = 30  # a dynamic loss scale of 2^24 is down to 1 after 24


class TrainingDiverged(UserError):
    """The loss or the gradients are no longer finite numbers."""


@dataclass
class TrainingState:
    """How far a run is; with the train step's parameters it is all that a checkpoint needs.

    Attributes:
        epoch: finished epochs.
        step: finished steps over all epochs.
        skipped_steps: of these, the ones without an update, since the gradients overflowed.
        best_dice: largest validation Dice so far, -1 before the first validation.
        best_epoch: the epoch that it was seen at.
        stale_validations: validations since then.
        stopped_early: whether early stopping ended the run.
    """

    epoch: int = 0
    step: int = 0
    skipped_steps: int = 0
    best_dice: float = -1.0
    best_epoch: int = 0
    stale_validations: int = 0
    stopped_early: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class EpochSummary:
    """What an epoch did: `loss` is the mean over its steps, `last_loss` that of the last one; times in seconds.

    Losses are means over the ranks, and so the same on each of them.

    `stall_seconds` is the part of `seconds` that the step waited for data.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    last_loss: float
    lr: float
    grad_norm: float
    seconds: float
    stall_seconds: float
    val_dice: float = math.nan
    val_loss: float = math.nan
    extra: dict[str, Any] = field(default_factory=dict)


class Callback:
    """Something that watches a run; every method does nothing unless overridden."""

    def on_train_begin(self, trainer: "Trainer") -> None:
        """Called once, before the first step."""

    def on_step_end(self, trainer: "Trainer", loss: float, lr: float) -> None:
        """Called after every step; `trainer.state.step` counts it already."""

    def on_epoch_end(self, trainer: "Trainer", summary: EpochSummary) -> None:
        """Called after every epoch, in the order the callbacks were given in."""

    def on_train_end(self, trainer: "Trainer") -> None:
        """Called once, also when the run ends by an exception."""


class Trainer:
    """Run a train step over a loader's epochs, from wherever `state` says.

    Args:
        step: the compiled train step.
        loader: gives the batches of an epoch.
        base_lr: base learning rate for the device and one rank.
        recipe: `epochs`, `warmup_step`, `warmup_ratio`, `lr_scaling` count.
        callbacks: called in this order.
        state: where to start; a fresh one by default.
    """

    def __init__(self, step: TrainStep, loader: BatchLoader, base_lr: float, recipe: dict[str, Any],
                 callbacks: Sequence[Callback] = (), state: TrainingState | None = None):
        self.step = step
        self.loader = loader
        self.base_lr, self.warmup_steps, self.warmup_ratio = scale_for_ranks(
            recipe["lr_scaling"], loader.world_size, base_lr, recipe["warmup_step"], recipe["warmup_ratio"])
        self.recipe = recipe
        self.callbacks = list(callbacks)
        self.state = state or TrainingState()
        self.skipped_in_a_row = 0
        self.stall_share = 0.0  # of the epoch's time so far that the step waited for data

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.recipe["epochs"] * self.loader.steps_per_epoch

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.state.epoch >= self.recipe["epochs"] or self.state.stopped_early

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0 over the whole run."""
        return learning_rate(step, self.total_steps, self.base_lr, self.warmup_steps, self.warmup_ratio,
                             self.recipe.get("lr_schedule", "cosine"))

    def fit(self) -> TrainingState:
        """Train up to `recipe["epochs"]`, or until a callback sets `state.stopped_early`.

        Raises:
            TrainingDiverged: the loss became NaN or infinite, or the gradients of too many steps in a row; names the
            step and its cases.
        """
        self.step.set_train(True)
        try:
            for callback in self.callbacks:
                callback.on_train_begin(self)
            while not self.finished:
                summary = self._train_epoch(self.state.epoch + 1)
                self.state.epoch = summary.epoch
                for callback in self.callbacks:
                    callback.on_epoch_end(self, summary)
        finally:
            for callback in self.callbacks:
                callback.on_train_end(self)
        return self.state

    def _train_epoch(self, epoch: int) -> EpochSummary:
        losses: list[float] = []
        rate = norm = math.nan
        stalled = 0.0
        began = asked = time.perf_counter()
        for batch in self.loader.epoch(epoch):
            stalled += time.perf_counter() - asked
            rate = self.lr_at(self.state.step)
            loss, norm = self._train_batch(batch, rate, epoch)
            losses.append(loss)
            self.stall_share = stalled / (time.perf_counter() - began)
            for callback in self.callbacks:
                callback.on_step_end(self, loss, rate)
            asked = time.perf_counter()
        return EpochSummary(epoch, self.state.step, len(losses), sum(losses) / len(losses), losses[-1], rate, norm,
                            time.perf_counter() - began, stalled)

    def _train_batch(self, batch: Batch, rate: float, epoch: int) -> tuple[float, float]:
        try:
            outputs = self.step(Tensor(batch.image), Tensor(batch.label), Tensor(rate, ms.float32))
            restore_interrupt()
            loss, applied, norm, _ = (value.asnumpy().item() for value in outputs)
        except RuntimeError as error:
            if lost := lost_rank(error):
                raise lost from None
            raise
        self.state.step += 1
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"the loss is {loss} at step {self.state.step} (epoch {epoch}), on cases {', '.join(batch.case_ids)}: "
                "expected a finite number. Look at these cases with --check_data, or start a new run with a lower lr "
                "or with grad_clip; the checkpoints before this step are intact")
        self._count_skips(applied, epoch, batch)
        return loss, norm

    def _count_skips(self, applied: bool, epoch: int, batch: Batch) -> None:
        """Say which step was skipped, and stop when a dynamic loss scale would have recovered long ago."""
        self.skipped_in_a_row = 0 if applied else self.skipped_in_a_row + 1
        if applied:
            return
        self.state.skipped_steps += 1
        where = f"step {self.state.step} (epoch {epoch}), cases {', '.join(batch.case_ids)}"
        logger.warning("%s: the gradients overflowed, so this step was skipped", where)
        if self.skipped_in_a_row >= MOST_SKIPS_IN_A_ROW:
            raise TrainingDiverged(
                f"{where}: the gradients of the last {MOST_SKIPS_IN_A_ROW} steps overflowed, so nothing is learnt. "
                "Start a new run with a lower lr, or with loss_scaling=dynamic and a smaller loss_scale")
