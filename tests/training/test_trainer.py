"""The loop: order of events, schedule, divergence, and where a resumed run goes on."""

import math

import pytest

from src.overrides import load_recipe
from src.training.trainer import Callback, Trainer, TrainingDiverged, TrainingState
from tests.training.helpers import FakeLoader, FakeStep


class Recorder(Callback):
    def __init__(self):
        self.events = []

    def on_train_begin(self, trainer):
        self.events.append("begin")

    def on_step_end(self, trainer, loss, lr):
        self.events.append(("step", trainer.state.step, loss))

    def on_epoch_end(self, trainer, summary):
        self.events.append(("epoch", summary.epoch, summary.loss, summary.last_loss))

    def on_train_end(self, trainer):
        self.events.append("end")


def make_trainer(*overrides, losses=(0.5,), state=None, applied=True):
    recipe = load_recipe(overrides=["epochs=2", "warmup_step=2", "warmup_ratio=0.5", *overrides])
    recorder = Recorder()
    return Trainer(FakeStep(losses, applied), FakeLoader(), 1.0, recipe, [recorder], state), recorder


def test_runs_the_epochs_and_feeds_the_schedule():
    trainer, recorder = make_trainer(losses=(1.0, 3.0))
    state = trainer.fit()
    # Four steps: 0.5 and 0.75 while warming up, then the cosine from 1 to 0.
    assert trainer.step.rates == pytest.approx([0.5, 0.75, 1.0, 0.0])
    assert recorder.events == ["begin", ("step", 1, 1.0), ("step", 2, 3.0), ("epoch", 1, 2.0, 3.0),
                               ("step", 3, 1.0), ("step", 4, 3.0), ("epoch", 2, 2.0, 3.0), "end"]
    assert (state.epoch, state.step, state.skipped_steps) == (2, 4, 0)
    assert trainer.finished


def test_goes_on_where_the_state_says():
    trainer, recorder = make_trainer(state=TrainingState(epoch=1, step=2))
    trainer.fit()
    assert trainer.step.rates == pytest.approx([1.0, 0.0])
    assert [e[1] for e in recorder.events if e[0] == "epoch"] == [2]


def test_a_finished_run_does_nothing():
    for state in (TrainingState(epoch=2, step=4), TrainingState(epoch=1, step=2, stopped_early=True)):
        trainer, recorder = make_trainer(state=state)
        assert trainer.finished
        trainer.fit()
        assert recorder.events == ["begin", "end"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_with_step_and_cases(bad):
    trainer, recorder = make_trainer(losses=(0.5, 0.5, 0.5, bad))
    with pytest.raises(TrainingDiverged, match=rf"loss is {bad} at step 4 \(epoch 2\), on cases Case21"):
        trainer.fit()
    assert recorder.events[-1] == "end"
    assert trainer.state.epoch == 1


def test_skipped_steps_are_counted_and_named(caplog):
    trainer, _ = make_trainer(applied=False)
    assert trainer.fit().skipped_steps == 4
    assert "step 3 (epoch 2), cases Case20: the gradients overflowed" in caplog.text


def test_a_run_that_skips_every_step_stops():
    trainer, _ = make_trainer("epochs=50", applied=False)
    with pytest.raises(TrainingDiverged, match=r"step 30 \(epoch 15\), cases Case151: .* last 30 steps overflowed"):
        trainer.fit()


@pytest.mark.parametrize(("rule", "base"), [("none", 1.0), ("linear", 4.0), ("sqrt", 2.0)])
def test_rate_and_warm_up_follow_the_number_of_ranks(rule, base, monkeypatch):
    monkeypatch.setattr(FakeLoader, "world_size", 4)
    trainer, _ = make_trainer(f"lr_scaling={rule}", "warmup_step=8", "epochs=8")
    assert trainer.base_lr == base
    # All start where one rank does; the scaled rules reach their base after as many samples, a quarter of the steps.
    assert trainer.lr_at(0) == pytest.approx(0.5)
    assert trainer.lr_at(8 if rule == "none" else 2) == pytest.approx(base)
    assert trainer.lr_at(15) == pytest.approx(0)


def test_a_callback_can_stop_the_run():
    trainer, recorder = make_trainer("early_stopping=1")
    recorder.on_epoch_end = lambda trainer, summary: setattr(trainer.state, "stopped_early", True)
    assert trainer.fit().epoch == 1
