"""Put a trainer together from a plan and a backend."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mindspore as ms
from easydict import EasyDict
from mindspore import nn

from src.backend import Backend, base_learning_rate
from src.checkpoint import (
    BEST_NAME,
    PRETRAINED_KEY,
    LaterVersion,
    cases_behind,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    load_parameters,
)
from src.collectives import ONE_RANK, gather, share
from src.data import Case, build_manager, get_task
from src.data.augment import Augmentation
from src.data.augment_slices import SliceAugmentation
from src.data.check import check_cases
from src.data.data_manager import DataManager
from src.data.dataset import BatchLoader, StreamedSamples
from src.data.patches import PatchSampler
from src.data.slices import slice_samples, slice_weights
from src.errors import DataError, UserError
from src.files import claim_folder
from src.inference.compose import wrap_predictor
from src.inference.evaluate import ValidationResult, ValidationSet
from src.inference.postprocess import Postprocess
from src.inference.predictor import NetworkPredictor, Predictor
from src.losses import LOSSES, build_loss
from src.networks import build_network
from src.recipe_rules import is_2d
from src.training.callbacks import CheckpointSaver, History, LossLog, ProgressBar, SharedStatistics, Validation
from src.training.ema import averaged_weights
from src.training.pipeline import build_single_step
from src.training.pipeline_build import Exchange, build_pipeline_step, is_pipeline
from src.training.plan import RunPlan
from src.training.pretrained import check_unseen, start_from_pretrained
from src.training.trainer import Callback, Trainer, TrainingState
from src.training.validation_loss import LossPredictor, validation_labels

logger = logging.getLogger(__name__)


def check_data(plan: RunPlan, backend: Backend = ONE_RANK) -> None:
    """Check every training and validation case, one log line each; each rank reads its share of them.

    Raises:
        DataError: listing every problem of the data set, on all ranks.
    """
    manager = build_manager(plan.recipe)
    cases, missing = get_task(plan.recipe.task).scan_cases(plan.data_path, plan.train_names + plan.validation_names,
                                                           classes=manager.classes)
    own = [*missing, *check_cases(share(backend, cases), manager)]
    problems = dict.fromkeys([*plan.problems, *(problem for found in gather(backend, own) for problem in found)])
    if problems:
        raise DataError(list(problems))
    logger.info("data is in order: %d training and %d validation cases", len(plan.train_names),
                len(plan.validation_names))


def build_trainer(plan: RunPlan, backend: Backend) -> Trainer:
    """Return the trainer of a run whose data was checked, at the newest checkpoint when the run is resumed.

    Raises:
        UserError: another process trains in the run's folder, no checkpoint can be read, or it does not fit the recipe.
    """
    plan.run_dir.mkdir(parents=True, exist_ok=True)
    if backend.is_main and not claim_folder(plan.run_dir):
        raise UserError(f"{plan.run_dir}: another process is training in it, and its checkpoints would mix with those "
                        "of this one; wait for it to end, or choose another --run_dir")
    recipe = plan.recipe
    manager = build_manager(recipe)
    find_cases = get_task(recipe.task).find_cases
    cases = find_cases(plan.data_path, plan.train_names)
    pipelined = is_pipeline(recipe, backend)
    _warn_of_empty_patches(recipe)
    loader = build_loader(manager, cases, recipe, backend, pipelined)

    ms.set_seed(recipe.seed)  # every rank starts from the same weights
    network = build_network(recipe, backend.rank, backend.world_size)
    behind: Sequence[Mapping[str, Any]] = ()
    if not list_checkpoints(plan.checkpoint_folder):
        behind = cases_behind(start_from_pretrained(network, recipe))
        check_unseen(behind, plan)
    loss = build_loss(recipe)
    step: Any
    if pipelined:
        step = build_pipeline_step(network, loss, recipe, backend, plan.run_dir, lambda: manager.load(cases[0]),
                                   plan.resumed)
    else:
        step = build_single_step(network, loss, recipe, backend)
    state, saved = _restore(plan, step, loader.steps_per_epoch)

    behind = behind or saved.get(PRETRAINED_KEY, ())
    said = plan.checkpoint_state() | ({PRETRAINED_KEY: list(behind)} if behind else {})
    saver = CheckpointSaver(plan.checkpoint_folder, said, recipe.save_every, recipe.keep_checkpoint_max)
    validations: list[Callback] = []
    if plan.validation_names:
        save_best = saver.save_best if backend.is_main else _no_saving
        validations.append(_build_validation(manager, find_cases(plan.data_path, plan.validation_names), recipe,
                                             backend, network, step, save_best))
    callbacks: list[Callback] = []
    if pipelined:
        callbacks.append(Exchange(step, backend))
    elif backend.world_size > 1:
        callbacks.append(SharedStatistics(backend, step))  # the network's, and their averages
    if backend.is_main:
        callbacks += [LossLog(recipe.get("log_every", 0)), ProgressBar(), *validations,
                      History(plan.run_dir, is_2d(recipe)), saver]
    else:
        callbacks += validations
    trainer = Trainer(step, loader, base_learning_rate(backend, recipe), recipe, callbacks, state)
    logger.info("%d parameters, %d training cases, %d steps an epoch, %d epochs", sum(
        parameter.size for parameter in network.trainable_params()), len(cases), loader.steps_per_epoch,
        recipe.epochs)
    if backend.world_size > 1 and not pipelined:
        logger.info("rank %d of %d: %d samples a step on each rank, %d in all; base learning rate %g (lr_scaling %s)",
                    backend.rank, backend.world_size, recipe.batch_size, recipe.batch_size * backend.world_size,
                    trainer.base_lr, recipe.lr_scaling)
    return trainer


def _build_validation(manager: DataManager, cases: Sequence[Case], recipe: EasyDict, backend: Backend,
                      network: nn.Cell, step: Any, save_best: Callable[[Trainer], None]) -> Validation:
    """Return the validation of a run; of pictures it measures the loss as well."""
    validation = ValidationSet(manager, cases, backend, in_memory=not _is_streamed(recipe),
                               postprocess=Postprocess.from_recipe(recipe))
    predictor: Predictor
    mean_loss: Callable[[], float] | None = None
    if is_2d(recipe):
        predictor = LossPredictor(network, build_loss(recipe), recipe, validation_labels(validation), backend)
        mean_loss = predictor.mean_loss
    else:
        predictor = wrap_predictor(NetworkPredictor(network), recipe)

    def validate() -> ValidationResult:
        with averaged_weights(getattr(step, "average", None)):
            return validation.run(predictor)

    return Validation(validate, recipe.val_every, save_best, recipe.early_stopping, mean_loss)


def build_loader(manager: DataManager, cases: Sequence[Case], recipe: EasyDict, backend: Backend,
                  pipelined: bool) -> BatchLoader:
    """Return the loader of this rank's batches: of all cases, a part of each step's, or a part of each case."""
    if is_2d(recipe):
        return _build_slice_loader(manager, cases, recipe, backend)
    load, rank, world_size = manager.load, backend.rank, backend.world_size
    if pipelined:
        # Both ranks go through the same cases: the first needs images, the second, which has the loss, labels.
        load = load if backend.is_main else manager.load_label
        rank, world_size = 0, 1
    samples = StreamedSamples(cases, load) if _is_streamed(recipe) else [load(case) for case in cases]
    return BatchLoader(samples, recipe.batch_size * recipe.get("micro_batches", 1), recipe.seed, rank, world_size,
                       augmentation=Augmentation.from_recipe(recipe) if recipe.get("augment", False) else None,
                       patches=PatchSampler.from_recipe(recipe) if recipe.get("patches", False) else None)


def _build_slice_loader(manager: DataManager, cases: Sequence[Case], recipe: EasyDict,
                        backend: Backend) -> BatchLoader:
    """Return the loader of this rank's batches of slices."""
    slices = slice_samples([manager.load(case) for case in cases])
    empty = sum(sample.label is not None and not sample.label.any() for sample in slices)
    logger.info("%d training slices, %d of them without foreground", len(slices), empty)
    if empty and LOSSES[recipe.loss][1] == "none" and recipe.dice_over == "sample":
        logger.warning("loss=%s over each sample: a slice without foreground has a ratio of 0 whatever is predicted, "
                       "so nothing is learned from it; use dice_over=batch, or loss=bce_dice", recipe.loss)
    return BatchLoader(slices, recipe.batch_size, recipe.seed, backend.rank, backend.world_size,
                       augmentation=SliceAugmentation.from_recipe(recipe) if recipe.augment else None,
                       weights=slice_weights(slices, recipe.slice_sampling))


def _warn_of_empty_patches(recipe: EasyDict) -> None:
    if recipe.get("patches", False) and recipe.loss in ("dice", "tversky") and recipe.dice_over == "sample":
        logger.warning("loss=%s over each sample: patches without foreground have a ratio of 0 whatever is predicted, "
                       "so nothing is learned from them; use loss=dice_ce, dice_focal, or dice_over=batch", recipe.loss)


def _is_streamed(recipe: EasyDict) -> bool:
    """Return whether cases are read from disk each time: MSD's brain tumours take 145 MB each, 70 GB in all."""
    return recipe.task == "brain_tumour"


def _no_saving(trainer: Trainer) -> None:
    """Rank 0 alone writes."""


def _restore(plan: RunPlan, step: nn.Cell, steps_per_epoch: int) -> tuple[TrainingState, Mapping[str, Any]]:
    """Load the newest checkpoint of a resumed run into `step`.

    Returns:
        Its state, a fresh one if there is none; and all that the checkpoint says about its run.
    """
    checkpoint = load_newest(plan.checkpoint_folder) if plan.resumed else None
    if checkpoint is None:
        if plan.resumed:
            logger.info("%s has no checkpoint yet: starting from the beginning", plan.run_dir)
        return TrainingState(), {}
    load_parameters(checkpoint, step, resume=True)
    try:
        state = TrainingState(**{name: checkpoint.state[name] for name in TrainingState().to_dict()})
        planned_epochs = checkpoint.state["recipe"]["epochs"]
    except (KeyError, TypeError) as error:
        raise UserError(f"checkpoint {checkpoint.path}: its training state lacks {error}; it is of another version of "
                        "this program. Evaluate it, or start a new run") from error
    if state.step != state.epoch * steps_per_epoch:
        # With another number of ranks an epoch has another number of steps; the schedule goes by epochs then.
        logger.warning("an epoch now has %d steps, not %d: going on at epoch %d", steps_per_epoch,
                       state.step // max(state.epoch, 1), state.epoch)
        state.step = state.epoch * steps_per_epoch
    if state.stopped_early and plan.recipe.epochs > planned_epochs:
        state.stopped_early, state.stale_validations = False, 0  # more epochs were asked for: go on
    _check_best(plan, state)
    logger.info("%s: at its newest checkpoint, after epoch %d, step %d", plan.run_dir, state.epoch, state.step)
    return state, checkpoint.state


def _check_best(plan: RunPlan, state: TrainingState) -> None:
    """Forget the best Dice when the checkpoint that had it is gone, so that the next validation writes one again."""
    if not state.best_epoch:
        return
    try:
        load_checkpoint(plan.checkpoint_folder / BEST_NAME)
    except LaterVersion:
        raise  # whole, and not ours to replace
    except UserError as error:
        logger.warning("%s. The next validation writes a new %s", error, BEST_NAME)
        state.best_dice, state.best_epoch = -1.0, 0
