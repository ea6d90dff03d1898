"""What happens around the steps: log lines, progress bar, validation, history, TensorBoard, checkpoints, stopping."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from mindspore import nn
from tensorboardX import SummaryWriter
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from src.backend import Backend
from src.checkpoint import BEST_NAME, HISTORY_NAME, checkpoint_name, prune_checkpoints, save_checkpoint
from src.collectives import average
from src.files import atomic_path, write_text
from src.inference.evaluate import ValidationResult
from src.report.pixels import training_loss_png
from src.training.trainer import Callback, EpochSummary, Trainer

logger = logging.getLogger(__name__)

LOSS_PICTURE = "training_loss.png"


class SharedStatistics(Callback):
    """Averages batch norm's moving statistics over the ranks after each epoch, before anything validates or saves.

    During an epoch each rank's follow its own batches. Averaged, all ranks validate the same network, and it is the
    one in the checkpoint.
    """

    def __init__(self, backend: Backend, network: nn.Cell):
        self.backend = backend
        self.statistics = [parameter for parameter in network.get_parameters()
                           if parameter.name.endswith(("moving_mean", "moving_variance"))]

    def on_epoch_end(self, trainer: Trainer, summary: EpochSummary) -> None:
        average(self.backend, self.statistics)


class LossLog(Callback):
    """The two lines an epoch that MindSpore users know: loss of the last step, and times without validation.

    Args:
        every: steps between further lines with the loss; 0 for none.
    """

    def __init__(self, every: int = 0):
        self.every = every

    def on_train_begin(self, trainer: Trainer) -> None:
        if not trainer.finished:
            logger.info("compiling the network; this takes a while and counts into the first epoch's time")

    def on_step_end(self, trainer: Trainer, loss: float, lr: float) -> None:
        steps = trainer.loader.steps_per_epoch
        step = (trainer.state.step - 1) % steps + 1
        # The last step of an epoch has its line below.
        if self.every and step % self.every == 0 and step < steps:
            logger.info("epoch: %d step: %d, loss is %.7f", trainer.state.epoch + 1, step, loss)

    def on_epoch_end(self, trainer: Trainer, summary: EpochSummary) -> None:
        logger.info("epoch: %d step: %d, loss is %.7f", summary.epoch, summary.steps, summary.last_loss)
        milliseconds = 1000 * summary.seconds
        logger.info("epoch time: %.3f ms, per step time: %.3f ms", milliseconds, milliseconds / summary.steps)

    def on_train_end(self, trainer: Trainer) -> None:
        if trainer.state.skipped_steps:
            logger.warning("%d of %d steps were skipped: their gradients overflowed",
                           trainer.state.skipped_steps, trainer.state.step)


class ProgressBar(Callback):
    """A tqdm bar over the whole run with loss, rate, stall share and time left; none where stderr is no terminal.

    The stall share is that of the epoch's time so far that the step waited for data.
    """

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.redirection = contextlib.ExitStack()

    def on_train_begin(self, trainer: Trainer) -> None:
        self.bar = tqdm(total=trainer.total_steps, initial=trainer.state.step, unit="step", disable=None,
                        dynamic_ncols=True, desc="training")
        if not self.bar.disable:
            self.redirection.enter_context(logging_redirect_tqdm())  # log lines above the bar, not through it

    def on_step_end(self, trainer: Trainer, loss: float, lr: float) -> None:
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{loss:.4f}", lr=f"{lr:.2e}", stall=f"{trainer.stall_share:.1%}", refresh=False)
            self.bar.update()

    def on_train_end(self, trainer: Trainer) -> None:
        if self.bar is not None:
            self.bar.close()
        self.redirection.close()


class Validation(Callback):
    """Dice on whole validation volumes every N epochs and after the last one; keeps the best checkpoint.

    Every rank has one, sees the same result and stops at the same epoch.

    Args:
        validate: runs the current network over the validation cases, which the ranks share.
        every: epochs between validations.
        save_best: called with the trainer when the mean Dice is the best so far.
        patience: validations without a better Dice before the run stops; 0 never stops it.
        mean_loss: gives the loss of the cases that were just validated; None where it is not measured.
    """

    def __init__(self, validate: Callable[[], ValidationResult], every: int, save_best: Callable[[Trainer], None],
                 patience: int = 0, mean_loss: Callable[[], float] | None = None):
        self.validate = validate
        self.every = every
        self.save_best = save_best
        self.patience = patience
        self.mean_loss = mean_loss

    def on_epoch_end(self, trainer: Trainer, summary: EpochSummary) -> None:
        last = summary.epoch >= trainer.recipe["epochs"]
        if not last and (self.every == 0 or summary.epoch % self.every):
            return
        result = self.validate()
        state = trainer.state
        summary.val_dice = result.mean_dice
        summary.extra["overlay"] = result.overlay
        loss = ""
        if self.mean_loss is not None:
            summary.val_loss = self.mean_loss()
            loss = f", loss: {summary.val_loss:.4f}"
        improved = result.mean_dice > state.best_dice
        if improved:
            state.best_dice, state.best_epoch, state.stale_validations = result.mean_dice, summary.epoch, 0
            self.save_best(trainer)
        else:
            state.stale_validations += 1
        best = "best so far" if improved else f"best {state.best_dice:.4f} at epoch {state.best_epoch}"
        logger.info("epoch: %d validation dice: %.4f (%s)%s", summary.epoch, result.mean_dice, best, loss)
        if self.patience and state.stale_validations >= self.patience:
            state.stopped_early = True
            logger.info("stopping early: no better validation dice in %d validations", state.stale_validations)


class History(Callback):
    """One row an epoch in `history.csv`, and the same as TensorBoard scalars with a validation overlay.

    A resumed run drops the rows after the epoch it continues from.

    Args:
        run_dir: where to write.
        pictures: of a 2-D recipe: with the validation loss, and when the run ends `training_loss.png`. TensorBoard has
            `val_loss`, `val_dsc` and `overlay` then, in place of `val_dice` and `validation`.
    """

    def __init__(self, run_dir: Path, pictures: bool = False):
        self.run_dir = run_dir
        self.pictures = pictures
        self.rows: list[dict[str, Any]] = []
        self.writer: SummaryWriter | None = None

    def on_train_begin(self, trainer: Trainer) -> None:
        path = self.run_dir / HISTORY_NAME
        if path.is_file() and trainer.state.epoch:
            frame = pd.read_csv(path, float_precision="round_trip")  # the default parser changes last digits
            self.rows = frame[frame["epoch"] <= trainer.state.epoch].to_dict("records")
        self.writer = SummaryWriter(str(self.run_dir / "tensorboard"), purge_step=trainer.state.step + 1)

    def on_epoch_end(self, trainer: Trainer, summary: EpochSummary) -> None:
        scalars = {"loss": summary.loss, "lr": summary.lr, "grad_norm": summary.grad_norm,
                   "val_dice": summary.val_dice, **({"val_loss": summary.val_loss} if self.pictures else {}),
                   "stall_share": summary.stall_seconds / summary.seconds}
        self.rows.append({"epoch": summary.epoch, "step": summary.step, **scalars, "seconds": summary.seconds,
                          "skipped_steps": trainer.state.skipped_steps})
        write_text(self.run_dir / HISTORY_NAME, pd.DataFrame(self.rows).to_csv(index=False))
        if self.writer is None:
            return
        tags = {"val_dice": "val_dsc", "validation": "overlay"} if self.pictures else {}
        for name, value in scalars.items():
            if value == value:  # no validation in this epoch: NaN
                self.writer.add_scalar(tags.get(name, name), value, summary.step)
        if summary.extra.get("overlay") is not None:
            self.writer.add_image(tags.get("validation", "validation"), summary.extra["overlay"], summary.step,
                                  dataformats="HWC")
        self.writer.flush()

    def on_train_end(self, trainer: Trainer) -> None:
        if self.writer is not None:
            self.writer.close()
        if self.pictures and self.rows:
            with atomic_path(self.run_dir / LOSS_PICTURE) as temporary:
                temporary.write_bytes(training_loss_png(pd.DataFrame(self.rows)))


class CheckpointSaver(Callback):
    """Save every N epochs and at the end, keep the newest; comes last, so that its state holds the epoch whole.

    Args:
        folder: the run's `ckpt` folder.
        run_state: what else goes into each checkpoint: recipe and its name, data path, split.
        every: epochs between checkpoints.
        keep: how many regular ones to keep.
    """

    def __init__(self, folder: Path, run_state: dict[str, Any], every: int, keep: int):
        self.folder = folder
        self.run_state = run_state
        self.every = every
        self.keep = keep

    def save_best(self, trainer: Trainer) -> None:
        """Write `best.ckpt`."""
        self._save(trainer, BEST_NAME)

    def on_epoch_end(self, trainer: Trainer, summary: EpochSummary) -> None:
        if summary.epoch % self.every == 0 or trainer.finished:
            self._save(trainer, checkpoint_name(summary.epoch, summary.steps, self.run_state["recipe_name"]))
            prune_checkpoints(self.folder, self.keep)

    def _save(self, trainer: Trainer, name: str) -> None:
        save_checkpoint(self.folder / name, trainer.step, {**self.run_state, **trainer.state.to_dict()})
