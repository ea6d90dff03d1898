"""Runs on pictures: their loader, their validation, and that a resumed run is the uninterrupted one bit for bit."""

import shutil
from dataclasses import replace

import mindspore as ms
import numpy as np
import pandas as pd
import pytest

from src.backend import Backend
from src.checkpoint import BEST_NAME, checkpoint_name, list_checkpoints, load_checkpoint, save_checkpoint
from src.data.augment_slices import SliceAugmentation
from src.losses import DeepSupervisionLoss
from src.overrides import apply_overrides, load_recipe
from src.training import build as module
from src.training.build import build_trainer, check_data
from src.training.callbacks import CheckpointSaver, History, LossLog, ProgressBar, SharedStatistics, Validation
from src.training.plan import RunPlan
from src.training.reduce import OwnValues
from src.training.trainer import Callback, TrainingState
from src.training.validation_loss import LossPredictor
from tests.pictures import make_lgg
from tests.training.helpers import PictureNetwork

SMALL = {"image_size": [32, 32], "batch_size": 2, "epochs": 4, "base_channels": 2, "lr": 0.001, "seed": 11}


@pytest.fixture
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture
def plan(tmp_path) -> RunPlan:
    """Two patients of four slices to train on, one to validate."""
    names = make_lgg(tmp_path / "data", patients=3, slices=4, size=40)
    recipe = load_recipe("unet2d_lgg", overrides=[f"{key}={value}".replace(" ", "") for key, value in SMALL.items()])
    return RunPlan(tmp_path / "run", "unet2d_lgg", recipe, tmp_path / "data", names[:2], names[2:])


def changed(plan: RunPlan, **changes) -> RunPlan:
    return replace(plan, recipe=apply_overrides(plan.recipe, changes))


@pytest.fixture
def small_networks(monkeypatch):
    monkeypatch.setattr(module, "build_network", lambda *_: PictureNetwork())


@pytest.mark.usefixtures("small_networks")
def test_every_setting_of_slices_arrives(plan):
    trainer = build_trainer(plan, Backend("CPU"))
    loader = trainer.loader
    assert len(loader.case_ids) == 8
    assert loader.case_ids[0] == "TCGA_XX_0001_20000101:1"
    assert (loader.batch_size, loader.seed, loader.steps_per_epoch) == (2, 11, 4)
    assert loader.augmentation == SliceAugmentation.from_recipe(plan.recipe)
    # By the masks: the fourth slice of each patient has none, and all patients weigh the same.
    assert loader.weights.reshape(2, 4).sum(axis=1) == pytest.approx([0.5, 0.5])
    assert loader.weights[[3, 7]] == pytest.approx(0.5 * 0.1 / 1.1 / 4)
    assert [type(callback) for callback in trainer.callbacks] == [LossLog, ProgressBar, Validation, History,
                                                                 CheckpointSaver]
    assert isinstance(trainer.callbacks[2].mean_loss.__self__, LossPredictor)
    assert trainer.callbacks[3].pictures
    assert isinstance(trainer.step.forward.loss, DeepSupervisionLoss)
    batch = next(iter(loader.epoch(1)))
    loader.close()
    assert (batch.image.shape, batch.label.shape) == ((2, 3, 32, 32), (2, 32, 32))
    plain = build_trainer(changed(plan, augment=False, slice_sampling="uniform"), Backend("CPU")).loader
    assert plain.augmentation is None
    assert plain.weights is None


@pytest.mark.usefixtures("small_networks")
def test_validation_sees_the_averaged_weights(plan):
    trainer = build_trainer(changed(plan, ema_decay=0.9, augment=False, slice_sampling="uniform"), Backend("CPU"))
    validation, (average,) = trainer.callbacks[2], trainer.step.average.averages
    found = {}
    for name, value in (("newest", 0.5), ("averaged", 2.0)):
        average.set_data(average * 0 + value)
        found[name] = validation.validate().mean_dice, validation.mean_loss()
    assert found["newest"] != found["averaged"]
    assert all(np.isfinite(value) for pair in found.values() for value in pair)


@pytest.mark.usefixtures("small_networks")
def test_another_rank_shares_the_slices(plan, monkeypatch):
    monkeypatch.setattr("src.training.train_step.build_mean", lambda *_: OwnValues())
    one, other = (build_trainer(plan, Backend("CPU", rank=rank, world_size=2)) for rank in range(2))
    assert [type(callback) for callback in other.callbacks] == [SharedStatistics, Validation]
    assert one.loader.steps_per_epoch == other.loader.steps_per_epoch == 2
    together = build_trainer(changed(plan, batch_size=4), Backend("CPU")).loader
    halves = [next(iter(trainer.loader.epoch(1))) for trainer in (one, other)]
    whole = next(iter(together.epoch(1)))
    for loader in (one.loader, other.loader, together):
        loader.close()
    np.testing.assert_array_equal(np.concatenate([half.image for half in halves]), whole.image)
    np.testing.assert_array_equal(np.concatenate([half.label for half in halves]), whole.label)


@pytest.mark.usefixtures("small_networks")
@pytest.mark.parametrize(("changes", "warned"), [
    ({"dice_over": "sample"}, True), ({"dice_over": "sample", "loss": "iou"}, True), ({}, False),
    ({"dice_over": "sample", "loss": "bce_dice"}, False)])
def test_slices_that_teach_nothing_are_warned_of(plan, caplog, changes, warned):
    caplog.set_level("INFO")
    build_trainer(changed(plan, **changes), Backend("CPU"))
    assert "8 training slices, 2 of them without foreground" in caplog.text
    assert ("a slice without foreground has a ratio of 0" in caplog.text) == warned


@pytest.mark.usefixtures("small_networks")
def test_only_a_run_from_the_beginning_takes_pretrained_weights(plan, monkeypatch):
    """And the average of its weights begins with them."""
    def start(network, recipe):
        network.weight.set_data(network.weight * 0 + 7)
        return {}

    monkeypatch.setattr(module, "start_from_pretrained", start)
    plan = changed(plan, ema_decay=0.9)
    trainer = build_trainer(plan, Backend("CPU"))
    assert [p.asnumpy().item() for p in (trainer.step.network.weight, *trainer.step.average.averages)] == [7, 7]
    trainer.step.network.weight.set_data(trainer.step.network.weight * 0 + 3)
    save_checkpoint(plan.checkpoint_folder / checkpoint_name(1, 4, plan.recipe_name), trainer.step,
                    {**plan.checkpoint_state(), **TrainingState(epoch=1, step=4).to_dict()})
    monkeypatch.setattr(module, "start_from_pretrained", None)
    resumed = build_trainer(replace(plan, resumed=True), Backend("CPU"))
    assert [p.asnumpy().item() for p in (resumed.step.network.weight, *resumed.step.average.averages)] == [3, 7]


class Copy(Callback):
    """Copies the run's folder when its second epoch is done: what a run killed then leaves behind."""

    def __init__(self, source, target):
        self.source, self.target = source, target

    def on_epoch_end(self, trainer, summary):
        if summary.epoch == 2:
            shutil.copytree(self.source, self.target)


def finish(plan: RunPlan, *callbacks: Callback) -> None:
    plan.save({})
    trainer = build_trainer(plan, Backend("CPU"))
    trainer.callbacks += callbacks
    trainer.fit()
    trainer.loader.close()


def test_a_resumed_run_is_the_uninterrupted_one(plan, tmp_path, graph_mode, kernels_in_use):
    """With augmentation, weighted drawing, dropout and averaged weights."""
    plan = changed(plan, base_channels=16, ema_decay=0.9, loss="bce_dice", dropout=0.1)
    killed = replace(plan, run_dir=tmp_path / "killed", resumed=True)
    check_data(plan)
    finish(plan, Copy(plan.run_dir, killed.run_dir))
    finish(killed)
    paths, others = (list_checkpoints(run.checkpoint_folder) for run in (plan, killed))
    assert [path.name for path in paths] == [path.name for path in others]
    assert len(paths) == 3  # the newest
    for name in (paths[-1].name, BEST_NAME):
        one, other = (load_checkpoint(run.checkpoint_folder / name) for run in (plan, killed))
        assert one.parameters.keys() == other.parameters.keys()
        for key, value in one.parameters.items():
            np.testing.assert_array_equal(value.asnumpy(), other.parameters[key].asnumpy(), err_msg=key)
        assert one.state == other.state
    columns = ["epoch", "step", "loss", "lr", "grad_norm", "val_dice", "val_loss"]
    one, other = (pd.read_csv(run.run_dir / "history.csv", float_precision="round_trip")[columns]
                  for run in (plan, killed))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert np.isfinite(one.to_numpy()).all()
    assert one["loss"].iloc[-1] < one["loss"].iloc[0]
    for run in (plan, killed):
        assert (run.run_dir / "training_loss.png").read_bytes().startswith(b"\x89PNG")
        assert (run.run_dir / "args.json").is_file()
