"""Put a trainer together from a plan and a backend."""

import logging

import mindspore as ms

from src.backend import Backend, base_learning_rate
from src.checkpoint import load_newest, load_parameters
from src.data import get_task
from src.data.check import check_cases
from src.data.data_manager import DataManager
from src.data.dataset import BatchLoader
from src.errors import DataError
from src.inference.evaluate import ValidationSet
from src.inference.predictor import NetworkPredictor
from src.losses import build_loss
from src.networks import build_network
from src.training.callbacks import CheckpointSaver, History, LossLog, ProgressBar, Validation
from src.training.plan import RunPlan
from src.training.train_step import TrainStep
from src.training.trainer import Callback, Trainer, TrainingState

logger = logging.getLogger(__name__)


def check_data(plan: RunPlan) -> None:
    """Check every training and validation case, one log line each.

    Raises:
        DataError: listing every problem of the data set.
    """
    cases, problems = get_task(plan.recipe.task).scan_cases(plan.data_path, plan.train_names + plan.validation_names)
    problems += check_cases(cases, DataManager.from_config(plan.recipe))
    if problems:
        raise DataError(problems)
    logger.info("data is in order: %d training and %d validation cases", len(plan.train_names),
                len(plan.validation_names))


def build_trainer(plan: RunPlan, backend: Backend) -> Trainer:
    """Return the trainer of a run whose data was checked, at the newest checkpoint when the run is resumed.

    Raises:
        UserError: no checkpoint can be read, or it does not fit the recipe.
    """
    recipe = plan.recipe
    manager = DataManager.from_config(recipe)
    find_cases = get_task(recipe.task).find_cases
    samples = [manager.load(case) for case in find_cases(plan.data_path, plan.train_names)]
    loader = BatchLoader(samples, recipe.batch_size, recipe.seed, backend.rank, backend.world_size, recipe.augment)

    ms.set_seed(recipe.seed)  # every rank starts from the same weights
    network = build_network(recipe, backend.rank)
    step = TrainStep(network, build_loss(recipe.loss), recipe, backend)
    state = _restore(plan, step)

    callbacks: list[Callback] = []
    if backend.is_main:
        saver = CheckpointSaver(plan.checkpoint_folder, plan.checkpoint_state(), recipe.save_every,
                                recipe.keep_checkpoint_max)
        callbacks += [LossLog(), ProgressBar()]
        if plan.validation_names:
            validation = ValidationSet(manager, find_cases(plan.data_path, plan.validation_names))
            predictor = NetworkPredictor(network)
            callbacks.append(Validation(lambda: validation.run(predictor), recipe.val_every, saver.save_best,
                                        recipe.early_stopping))
        callbacks += [History(plan.run_dir), saver]
    trainer = Trainer(step, loader, base_learning_rate(backend, recipe), recipe, callbacks, state,
                      backend.any_rank)
    logger.info("%d parameters, %d training cases, %d steps an epoch, %d epochs", sum(
        parameter.size for parameter in network.trainable_params()), len(samples), loader.steps_per_epoch,
        recipe.epochs)
    return trainer


def _restore(plan: RunPlan, step: TrainStep) -> TrainingState:
    """Load the newest checkpoint of a resumed run into `step` and return its state; a fresh one if there is none."""
    checkpoint = load_newest(plan.checkpoint_folder) if plan.resumed else None
    if checkpoint is None:
        return TrainingState()
    load_parameters(checkpoint, step)
    state = TrainingState(**{name: checkpoint.state[name] for name in TrainingState().to_dict()})
    if state.stopped_early and plan.recipe.epochs > checkpoint.state["recipe"]["epochs"]:
        state.stopped_early, state.stale_validations = False, 0  # more epochs were asked for: go on
    logger.info("resuming %s after epoch %d, step %d", plan.run_dir, state.epoch, state.step)
    return state
