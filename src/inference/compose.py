"""What predicts for a recipe: one network or several, slices, mirrored copies, windows."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from easydict import EasyDict

from src.checkpoint import Checkpoint
from src.inference.ensemble import EnsemblePredictor, check_members
from src.inference.predictor import ExportedPredictor, NetworkPredictor, Predictor, load_checkpoint_predictor
from src.inference.slices import SlicePredictor
from src.inference.sliding_window import WindowPredictor
from src.inference.tta import MirrorPredictor
from src.ops.select import kernels
from src.recipe_rules import is_2d

logger = logging.getLogger(__name__)


def wrap_predictor(network: NetworkPredictor | ExportedPredictor | EnsemblePredictor, recipe: Mapping[str, Any],
                   mirrored: bool = False) -> Predictor:
    """Return a predictor of what the recipe's preprocessing gives: of whole volumes with `patches`, else of blocks.

    Args:
        network: of blocks of `VolSize` voxels; for recipes of pictures, of these.
        recipe: `patches`, `VolSize` and `window_overlap` count, `tta`, and for pictures `batch_size`.
        mirrored: whether `tta` counts; validation during training does without, since it takes 2, 4 or 8 times as long.
    """
    predictor: Predictor = network
    if is_2d(recipe):
        fixed = network.shape[0] if isinstance(network, ExportedPredictor) else None
        predictor = SlicePredictor(network, fixed or recipe["batch_size"], fixed is not None)
    if mirrored and recipe.get("tta", "none") != "none":
        predictor = MirrorPredictor(predictor, recipe["tta"])
    if recipe.get("patches", False):
        predictor = WindowPredictor(predictor, recipe["VolSize"], recipe["window_overlap"])
    return predictor


def load_predictor(paths: Sequence[Path],
                   changes: Mapping[str, Any] | None = None) -> tuple[Predictor, EasyDict, list[Checkpoint]]:
    """Load one checkpoint, or several as an ensemble, with mirroring and windows as the recipe has them.

    Args:
        paths: of the checkpoints, at least one.
        changes: recipe keys to override, see `overrides.apply_overrides`.

    Returns:
        The predictor, the recipe (of the first checkpoint, with `changes`), and the checkpoints, whose parameters are
        in the predictor only.

    Raises:
        UserError: a checkpoint cannot be read or does not fit the network, or several differ in their preprocessing.
    """
    members, recipes, checkpoints = [], [], []
    for path in paths:
        member, recipe, checkpoint = load_checkpoint_predictor(path, changes)
        members.append(member)
        recipes.append(recipe)
        # A checkpoint holds the optimiser's state too, twice as much again as the network.
        checkpoints.append(replace(checkpoint, parameters={}))
        check_members(paths[:len(recipes)], recipes)
    recipe = recipes[0]
    _say_precision(recipe, changes or {})
    if len(members) > 1:
        logger.info("ensemble of %d networks", len(members))
    predictor = members[0] if len(members) == 1 else EnsemblePredictor(members)
    return wrap_predictor(predictor, recipe, mirrored=True), recipe, checkpoints


def _say_precision(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    library = kernels()
    if recipe["amp_level"] == "bf16" and (library is None or not library.has_blocked):
        logger.warning("amp_level bf16 needs the CPU kernels, which are not in use: predicting in fp32")
    elif recipe["amp_level"] == "bf16":
        logger.info("activations are stored in bf16")
    elif changes.get("amp_level") in ("O2", "O3"):
        logger.warning("amp_level %s acts in training alone: predicting in fp32", changes["amp_level"])
