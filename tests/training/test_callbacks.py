"""Log lines, validation, history and checkpoints around a run with stand-in steps."""

import logging
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from mindspore import Parameter, Tensor, nn
from tensorboardX.proto.event_pb2 import Event

from src.checkpoint import BEST_NAME, list_checkpoints, load_checkpoint
from src.inference.evaluate import ValidationResult
from src.overrides import load_recipe
from src.training.callbacks import CheckpointSaver, History, LossLog, ProgressBar, Validation
from src.training.trainer import Callback, Trainer, TrainingState
from tests.training.helpers import FakeLoader, FakeStep


class StepWithParameter(FakeStep, nn.Cell):
    """A stand-in step with one parameter to save."""

    def __init__(self, losses):
        nn.Cell.__init__(self)
        FakeStep.__init__(self, losses)
        self.weight = Parameter(Tensor(np.arange(3, dtype=np.float32)), name="weight")


def run(tmp_path, *overrides, dices=(), losses=(), state=None, epochs=4, applied=True, name="vnet_promise12"):
    recipe = load_recipe(name, overrides=[f"epochs={epochs}", *overrides])
    scores = iter(dices)
    overlay = np.full((2, 3, 3), 7, np.uint8)
    saver = CheckpointSaver(tmp_path / "ckpt", {"recipe": {"epochs": epochs}, "recipe_name": name}, recipe.save_every,
                            recipe.keep_checkpoint_max)
    callbacks = [LossLog(), ProgressBar(), History(tmp_path, pictures=name.startswith("unet2d")), saver]
    if dices:
        of_losses = iter(losses)
        callbacks.insert(2, Validation(lambda: ValidationResult(next(scores), {}, overlay), recipe.val_every,
                                       saver.save_best, recipe.early_stopping,
                                       (lambda: next(of_losses)) if losses else None))
    step = StepWithParameter([0.5, 0.25])
    step.applied = applied
    trainer = Trainer(step, FakeLoader(), 1.0, recipe, callbacks, state)
    return trainer.fit()


def epochs_saved(tmp_path):
    return [int(path.name.split("-")[1].split("_")[0]) for path in list_checkpoints(tmp_path / "ckpt")]


def test_log_lines_are_the_known_ones(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run(tmp_path, epochs=1)
    assert caplog.messages[0].startswith("compiling the network")
    assert caplog.messages[1] == "epoch: 1 step: 2, loss is 0.2500000"
    match = re.fullmatch(r"epoch time: (\d+\.\d{3}) ms, per step time: (\d+\.\d{3}) ms", caplog.messages[2])
    assert float(match[1]) == pytest.approx(2 * float(match[2]), abs=2e-3)


def test_a_line_every_n_steps(caplog):
    """The last step of an epoch has its line anyway."""
    caplog.set_level(logging.INFO)
    recipe = load_recipe("unet3d_brain", overrides=["epochs=2"])
    for every, expected in ((1, [(1, 1), (1, 2), (2, 1), (2, 2)]), (2, [(1, 2), (2, 2)]), (0, [(1, 2), (2, 2)])):
        caplog.clear()
        Trainer(FakeStep([0.5, 0.25]), FakeLoader(), 0.1, recipe, [LossLog(every)]).fit()
        lines = re.findall(r"epoch: (\d) step: (\d), loss is 0\.", caplog.text)
        assert [(int(epoch), int(step)) for epoch, step in lines] == expected


def test_progress_bar_shows_how_much_of_the_time_was_spent_waiting_for_data(monkeypatch):
    """By a clock of our own: a batch takes 1 s to come and a step 3 s, so the share is a quarter."""
    now = 0.0

    class SlowLoader(FakeLoader):
        def epoch(self, epoch):
            nonlocal now
            for batch in super().epoch(epoch):
                now += 1
                yield batch

    class SlowStep(FakeStep):
        def __call__(self, *arguments):
            nonlocal now
            now += 3
            return super().__call__(*arguments)

    monkeypatch.setattr("src.training.trainer.time", SimpleNamespace(perf_counter=lambda: now))
    bar, shares = ProgressBar(), []

    class Look(Callback):
        def on_step_end(self, trainer, loss, lr):
            shares.append(bar.bar.postfix)

        def on_epoch_end(self, trainer, summary):
            assert (summary.stall_seconds, summary.seconds) == (2, 8)

    Trainer(SlowStep([0.5, 0.25]), SlowLoader(), 0.1, load_recipe(overrides=["epochs=2"]), [bar, Look()]).fit()
    assert [text.split(", ")[2] for text in shares] == ["stall=25.0%"] * 4
    assert shares[0].startswith("loss=0.5000, lr=")


def test_validation_every_n_epochs_and_at_the_end(tmp_path):
    run(tmp_path, "val_every=2", dices=(0.5, 0.7, 0.6), epochs=5)
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert history["val_dice"].round(4).fillna(-1).tolist() == [-1, 0.5, -1, 0.7, 0.6]
    assert history["loss"].tolist() == [0.375] * 5
    best = load_checkpoint(tmp_path / "ckpt" / BEST_NAME)
    assert (best.state["best_epoch"], best.state["best_dice"]) == (4, 0.7)
    assert best.parameters["weight"].asnumpy().tolist() == [0, 1, 2]


def test_val_every_0_validates_at_the_end_only(tmp_path):
    run(tmp_path, "val_every=0", dices=(0.5,))
    assert pd.read_csv(tmp_path / "history.csv")["val_dice"].notna().tolist() == [False, False, False, True]


def test_early_stopping(tmp_path):
    state = run(tmp_path, "val_every=1", "early_stopping=2", dices=(0.5, 0.6, 0.4, 0.6, 0.9), epochs=9)
    assert (state.epoch, state.stopped_early, state.best_epoch) == (4, True, 2)
    assert load_checkpoint(list_checkpoints(tmp_path / "ckpt")[-1]).state["stopped_early"] is True
    state = run(tmp_path / "patient", "val_every=1", dices=(0.5,) * 9, epochs=9)
    assert (state.epoch, state.stopped_early) == (9, False)


def test_checkpoints_every_n_epochs_newest_kept(tmp_path):
    run(tmp_path, "save_every=2", "keep_checkpoint_max=2", epochs=7)
    assert epochs_saved(tmp_path) == [6, 7]
    run(tmp_path / "all", epochs=3)
    assert epochs_saved(tmp_path / "all") == [1, 2, 3]
    assert (tmp_path / "all" / "ckpt" / "checkpoint_vnet-3_2.ckpt").is_file()
    state = load_checkpoint(tmp_path / "all" / "ckpt" / "checkpoint_vnet-2_2.ckpt").state
    assert state == {"recipe": {"epochs": 3}, "recipe_name": "vnet_promise12",
                     **TrainingState(epoch=2, step=4).to_dict()}


def test_skipped_steps_reach_log_history_and_checkpoint(tmp_path, caplog):
    assert run(tmp_path, epochs=2, applied=False).skipped_steps == 4
    assert "4 of 4 steps were skipped: their gradients overflowed" in caplog.text
    assert pd.read_csv(tmp_path / "history.csv")["skipped_steps"].tolist() == [2, 4]
    assert [load_checkpoint(path).state["skipped_steps"] for path in list_checkpoints(tmp_path / "ckpt")] == [2, 4]


def test_a_resumed_history_drops_what_came_after(tmp_path):
    run(tmp_path, epochs=4)
    run(tmp_path, epochs=4, state=TrainingState(epoch=2, step=4))
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert history["step"].tolist() == [2, 4, 6, 8]


def test_tensorboard_has_scalars_and_the_overlay(tmp_path):
    run(tmp_path, "val_every=1", dices=(0.5, 0.75), epochs=2)
    scalars, images = board(tmp_path)
    assert scalars[2, "loss"] == scalars[4, "loss"] == 0.375
    assert (scalars[2, "val_dice"], scalars[4, "val_dice"]) == (0.5, 0.75)
    assert images == [("validation", 2, 3)] * 2


def test_runs_on_pictures_have_the_validation_loss(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run(tmp_path, "val_every=2", dices=(0.5, 0.75), losses=(0.625, 0.25), epochs=4, name="unet2d_lgg")
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["val_dice"].fillna(-1).tolist() == [-1, 0.5, -1, 0.75]
    assert history["val_loss"].fillna(-1).tolist() == [-1, 0.625, -1, 0.25]
    scalars, images = board(tmp_path)
    assert {tag for _, tag in scalars} == {"loss", "lr", "grad_norm", "stall_share", "val_loss", "val_dsc"}
    assert (scalars[4, "val_loss"], scalars[4, "val_dsc"]) == (0.625, 0.5)
    assert (scalars[8, "val_loss"], scalars[8, "val_dsc"]) == (0.25, 0.75)
    assert images == [("overlay", 2, 3)] * 2
    assert "epoch: 2 validation dice: 0.5000 (best so far), loss: 0.6250" in caplog.messages
    assert [path.name for path in list_checkpoints(tmp_path / "ckpt")][-1] == "checkpoint_unet-4_2.ckpt"


def test_the_loss_is_drawn_when_a_run_on_pictures_ends(tmp_path, monkeypatch):
    drawn = []

    def draw(history):
        drawn.append((history["epoch"].tolist(), history["loss"].tolist()))
        return b"picture"

    monkeypatch.setattr("src.training.callbacks.training_loss_png", draw)
    run(tmp_path, epochs=2, name="unet2d_drive")
    assert drawn == [([1, 2], [0.375, 0.375])]
    assert (tmp_path / "training_loss.png").read_bytes() == b"picture"
    run(tmp_path, epochs=3, name="unet2d_drive", state=TrainingState(epoch=1, step=2))
    assert drawn[1][0] == [1, 2, 3]
    run(tmp_path / "volumes", epochs=1)
    assert not (tmp_path / "volumes" / "training_loss.png").exists()
    assert len(drawn) == 2


def board(folder):
    """Return the scalars by step and tag, and tag, height and width of each image."""
    events = (event for path in (folder / "tensorboard").iterdir() for event in read_events(path))
    values = [(event.step, value) for event in events for value in event.summary.value]
    return ({(step, v.tag): v.simple_value for step, v in values if v.HasField("simple_value")},
            [(v.tag, v.image.height, v.image.width) for _, v in values if v.HasField("image")])


def read_events(path):
    """Read TFRecords: length (8 bytes), its CRC (4), data, data's CRC (4)."""
    data = path.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        yield Event.FromString(data[12:12 + length])
        data = data[16 + length:]
