"""A trainer is wired as its recipe says, and goes on where its checkpoint was."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mindspore import Parameter, Tensor
from mindspore.nn import Cell

from src.backend import Backend
from src.checkpoint import BEST_NAME, LaterVersion, checkpoint_name, load_checkpoint, save_checkpoint
from src.data.augment import Augmentation
from src.data.patches import PatchSampler
from src.errors import DataError, UserError
from src.inference.sliding_window import WindowPredictor
from src.overrides import apply_overrides, load_recipe
from src.training import build as module
from src.training.build import build_trainer, check_data
from src.training.callbacks import CheckpointSaver, History, LossLog, ProgressBar, SharedStatistics, Validation
from src.training.plan import RunPlan
from src.training.reduce import OwnValues
from src.training.trainer import TrainingState

SAMPLE = Path(__file__).parents[2] / "data" / "sample"
RECIPE = load_recipe(overrides=[
    "base_channels=1", "VolSize=[16,16,16]", "dstRes=[3,3,3]", "batch_size=2", "epochs=8", "lr=0.25", "lr_ascend=0.5",
    "val_every=3", "early_stopping=4", "save_every=2", "keep_checkpoint_max=5", "augment=true", "seed=11"])


@pytest.fixture
def plan(tmp_path) -> RunPlan:
    return RunPlan(tmp_path / "run", "vnet_promise12", RECIPE, SAMPLE, ["Case00.mhd", "Case01.mhd", "Case02.mhd"],
                   ["Case24.mhd"])


def resumed(plan: RunPlan, state: dict, epochs: int = 8) -> RunPlan:
    """Save a checkpoint of the plan's network with `state`, and return the plan of resuming it."""
    step = build_trainer(plan, Backend("CPU")).step
    step.network.input.conv.bias.set_data(Tensor(np.array([42.0], np.float32)))
    for name in (checkpoint_name(state.get("epoch", 1), 2), BEST_NAME):
        save_checkpoint(plan.checkpoint_folder / name, step, {**plan.checkpoint_state(), **state})
    return replace(plan, resumed=True, recipe=apply_overrides(plan.recipe, {"epochs": epochs}))


def test_every_setting_arrives(plan):
    trainer = build_trainer(plan, Backend("CPU"))
    assert (trainer.base_lr, trainer.total_steps) == (0.25, 16)
    assert (trainer.loader.batch_size, trainer.loader.seed) == (2, 11)
    assert trainer.loader.augmentation == Augmentation.from_recipe(RECIPE)
    assert trainer.loader.patches is None
    assert [type(callback) for callback in trainer.callbacks] == [LossLog, ProgressBar, Validation, History,
                                                                 CheckpointSaver]
    validation, saver = trainer.callbacks[2], trainer.callbacks[4]
    assert (validation.every, validation.patience) == (3, 4)
    assert (saver.every, saver.keep, saver.folder) == (2, 5, plan.run_dir / "ckpt")
    assert saver.run_state["train_names"] == plan.train_names


def test_a_folder_in_which_another_process_trains_is_refused(plan, monkeypatch):
    monkeypatch.setattr("src.training.build.claim_folder", lambda folder: folder != plan.run_dir)
    with pytest.raises(UserError, match=r"another process is training in it, .* choose another --run_dir"):
        build_trainer(plan, Backend("CPU"))


def with_pretrained(plan: RunPlan, pretrained: str, **other: object) -> RunPlan:
    return replace(plan, run_dir=plan.run_dir.parent / "next", recipe=apply_overrides(
        plan.recipe, {"pretrained": pretrained, "VolSize": [16, 16, 32], **other}))


def averaged_bias(step: Cell) -> Parameter:
    return next(parameter for parameter in step.average.averages if parameter.name.endswith("input.conv.bias"))


def test_a_run_begins_with_the_weights_of_another(plan):
    """Of its newest checkpoint, or of the one that is named; averaged weights where the other has them."""
    plan = replace(plan, run_dir=plan.run_dir.parent / "seed11" / "fold-1",
                   recipe=apply_overrides(plan.recipe, {"ema_decay": 0.9}))
    step = build_trainer(plan, Backend("CPU")).step
    for number, bias in ((42, step.network.input.conv.bias), (5, averaged_bias(step))):
        bias.set_data(Tensor(np.array([number], np.float32)))
    for name in (checkpoint_name(3, 2), BEST_NAME):
        save_checkpoint(plan.checkpoint_folder / name, step, {**plan.checkpoint_state(), "epoch": 3})
    for path in ("seed{seed}/fold{fold}", f"seed11/fold-1/ckpt/{BEST_NAME}"):
        step = build_trainer(with_pretrained(plan, str(plan.run_dir.parents[1] / path)), Backend("CPU")).step
        assert (step.network.input.conv.bias.asnumpy(), averaged_bias(step).asnumpy()) == (5, 5)
    resumed(replace(plan, recipe=RECIPE), {"epoch": 4})
    trainer = build_trainer(with_pretrained(plan, str(plan.run_dir)), Backend("CPU"))
    assert trainer.step.network.input.conv.bias.asnumpy() == 42
    assert trainer.state.epoch == 0


def test_weights_that_saw_the_validation_cases_are_refused(plan):
    resumed(plan, {"epoch": 3})
    other = replace(with_pretrained(plan, str(plan.run_dir)), train_names=["Case24.mhd", "Case00.mhd"],
                    validation_names=["Case01.mhd", "Case02.mhd"])
    with pytest.raises(UserError, match=r"'pretrained': .* was trained on 2 of the 2 validation cases \(Case01.mhd, "):
        build_trainer(other, Backend("CPU"))
    assert build_trainer(replace(other, validation_names=["Case24.mhd"]), Backend("CPU"))


def test_patches_and_augmentation_are_as_the_recipe_says(plan):
    recipe = apply_overrides(plan.recipe, {"patches": True, "patches_per_case": 2, "augment": False})
    loader = build_trainer(replace(plan, recipe=recipe), Backend("CPU")).loader
    assert loader.augmentation is None
    assert loader.patches == PatchSampler.from_recipe(recipe)
    assert loader.steps_per_epoch == 3


@pytest.mark.parametrize(("changes", "warned"), [
    ({"loss": "dice"}, True), ({"loss": "tversky"}, True), ({"loss": "dice_ce"}, False), ({"loss": "focal"}, False),
    ({"loss": "dice", "dice_over": "batch"}, False), ({"loss": "dice", "patches": False}, False)])
def test_patches_that_teach_nothing_are_warned_of(plan, caplog, monkeypatch, changes, warned):
    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    monkeypatch.setattr(module, "build_loader", stop)  # the warning is there before any case is read
    recipe = apply_overrides(plan.recipe, {"patches": True, **changes})
    with pytest.raises(Stop):
        build_trainer(replace(plan, recipe=recipe), Backend("CPU"))
    text = f"loss={changes['loss']} over each sample: patches without foreground have a ratio of 0"
    assert (text in caplog.text and "use loss=dice_ce" in caplog.text) == warned
    assert len(caplog.records) == warned


def test_validation_sees_the_averaged_weights_and_windows_and_training_the_newest(plan, monkeypatch):
    recipe = apply_overrides(plan.recipe, {"ema_decay": 0.9, "patches": True, "classes": 2, "deep_supervision": True})
    trainer = build_trainer(replace(plan, recipe=recipe), Backend("CPU"))
    bias = trainer.step.network.input.conv.bias
    average = next(p for p in trainer.step.average.averages if p.name == "ema.input.conv.bias")
    bias.set_data(Tensor(np.array([1.0], np.float32)))
    average.set_data(Tensor(np.array([2.0], np.float32)))
    seen = []

    def run(self, predictor):
        seen.append((bias.asnumpy().item(), type(predictor)))
        return "result"

    monkeypatch.setattr(module.ValidationSet, "run", run)
    assert trainer.callbacks[2].validate() == "result"
    assert seen == [(2.0, WindowPredictor)]
    assert bias.asnumpy() == 1


def test_a_resumed_run_goes_on_from_the_newest_weights_and_their_average(plan):
    plan = replace(plan, recipe=apply_overrides(plan.recipe, {"ema_decay": 0.9}))
    state = TrainingState(epoch=3, step=6)
    trainer = build_trainer(resumed(plan, state.to_dict()), Backend("CPU"))
    assert trainer.step.network.input.conv.bias.asnumpy() == 42
    average = next(p for p in trainer.step.average.averages if p.name == "ema.input.conv.bias")
    assert average.asnumpy() == 0  # as it was in the checkpoint: no step was taken


def test_another_rank_takes_its_share_and_writes_nothing(plan, monkeypatch):
    monkeypatch.setattr("src.training.train_step.build_mean", lambda *_: OwnValues())
    plan = replace(plan, recipe=apply_overrides(plan.recipe, {"lr_scaling": "linear"}))
    trainer = build_trainer(plan, Backend("Ascend", rank=1, world_size=2))
    assert [type(callback) for callback in trainer.callbacks] == [SharedStatistics, Validation]
    statistics, validation = trainer.callbacks
    # A moving mean and a moving variance for each batch norm: the input's, 12 on the way down, 10 up, the output's.
    assert len(statistics.statistics) == 2 * 24
    averaged = replace(plan, recipe=apply_overrides(plan.recipe, {"ema_decay": 0.9}))
    statistics = build_trainer(averaged, Backend("Ascend", rank=1, world_size=2)).callbacks[0].statistics
    assert len([p for p in statistics if p.name.startswith("ema.")]) == len(statistics) / 2 == 2 * 24
    assert validation.save_best(trainer) is None
    assert not list(plan.run_dir.rglob("*"))
    assert trainer.base_lr == 2 * 0.5
    assert (trainer.loader.rank, trainer.loader.world_size, trainer.loader.steps_per_epoch) == (1, 2, 1)


def test_no_validation_cases_no_validation(plan):
    trainer = build_trainer(replace(plan, validation_names=[]), Backend("CPU"))
    assert Validation not in [type(callback) for callback in trainer.callbacks]


def test_goes_on_where_the_checkpoint_was(plan):
    state = TrainingState(epoch=3, step=6, skipped_steps=1, best_dice=0.5, best_epoch=3, stale_validations=2)
    trainer = build_trainer(resumed(plan, state.to_dict()), Backend("CPU"))
    assert trainer.state == state
    assert trainer.step.network.input.conv.bias.asnumpy() == 42


def test_a_run_stopped_early_goes_on_only_when_extended(plan):
    state = TrainingState(epoch=3, step=6, best_dice=0.5, best_epoch=1, stale_validations=4, stopped_early=True)
    assert build_trainer(resumed(plan, state.to_dict()), Backend("CPU")).finished
    trainer = build_trainer(resumed(plan, state.to_dict(), epochs=9), Backend("CPU"))
    assert not trainer.finished
    assert trainer.state.stale_validations == 0


def test_the_schedule_goes_by_epochs_when_their_length_changes(plan, caplog):
    """Three epochs of one step (twice the ranks) become three epochs of two steps."""
    trainer = build_trainer(resumed(plan, TrainingState(epoch=3, step=3).to_dict()), Backend("CPU"))
    assert trainer.state.step == 6
    assert "an epoch now has 2 steps, not 1" in caplog.text


def test_a_lost_best_checkpoint_is_written_again(plan, caplog):
    again = resumed(plan, TrainingState(epoch=3, step=6, best_dice=0.5, best_epoch=3).to_dict())
    (plan.checkpoint_folder / BEST_NAME).unlink()
    trainer = build_trainer(again, Backend("CPU"))
    assert (trainer.state.best_dice, trainer.state.best_epoch) == (-1.0, 0)
    assert "best.ckpt: no such file" in caplog.text


def test_a_best_checkpoint_of_a_later_version_is_not_replaced(plan, monkeypatch):
    again = resumed(plan, TrainingState(epoch=3, step=6, best_dice=0.5, best_epoch=3).to_dict())
    whole = module.load_checkpoint

    def load(path):
        if path.name == BEST_NAME:
            raise LaterVersion(f"checkpoint {path}: format version 3, expected 2 at most")
        return whole(path)

    monkeypatch.setattr(module, "load_checkpoint", load)
    with pytest.raises(LaterVersion, match=r"best\.ckpt: format version 3"):
        build_trainer(again, Backend("CPU"))


def test_a_state_of_another_version_is_refused_by_name(plan):
    again = resumed(plan, {"epoch": 3})
    with pytest.raises(UserError, match=r"checkpoint_vnet-3_2\.ckpt: its training state lacks 'step'"):
        build_trainer(again, Backend("CPU"))
    assert load_checkpoint(plan.checkpoint_folder / BEST_NAME).state["epoch"] == 3


def test_check_data_lists_the_problems_of_splits_files_and_cases(plan):
    check_data(plan)
    with pytest.raises(DataError) as caught:
        check_data(replace(plan, train_names=["Case00.mhd", "Case77.mhd"], problems=("val.csv: Case01 twice",)))
    assert caught.value.problems[0] == "val.csv: Case01 twice"
    assert any("Case77.mhd is missing" in problem for problem in caught.value.problems)


@pytest.mark.parametrize(("rank", "own"), [(0, ["Case00", "Case02"]), (1, ["Case01", "Case24"])])
def test_each_rank_checks_its_share_and_knows_the_problems_of_all(plan, monkeypatch, caplog, rank, own):
    monkeypatch.setattr(module, "gather", lambda backend, found: [found, found, ["Case07: damaged"]])
    with caplog.at_level("INFO"), pytest.raises(DataError) as caught:
        check_data(plan, Backend("CPU", rank=rank, world_size=2))
    assert caught.value.problems == ["Case07: damaged"]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == own
