"""Where predictions come from: a bundle, or one checkpoint or several, with all that belongs to them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.data import build_manager
from src.data.data_manager import DataManager
from src.inference.bundle import check_golden, load_bundle_predictor
from src.inference.compose import load_predictor, wrap_predictor
from src.inference.output import checkpoint_title
from src.inference.postprocess import Postprocess
from src.inference.predictor import Predictor
from src.overrides import plain

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Source:
    """A network that predicts, and what goes before and after it.

    Attributes:
        predictor: with mirrored copies and windows as the recipe has them.
        manager: the preprocessing that the network was trained with.
        recipe: the settings it was trained with, as plain values.
        title: the bundle's or the checkpoints' name, for reports.
        postprocess: from probability to mask.
    """

    predictor: Predictor
    manager: DataManager
    recipe: Mapping[str, Any]
    title: str
    postprocess: Postprocess


def load_bundle_source(path: Path) -> Source:
    """Load a bundle, and check that its golden case gives the golden answer on this machine.

    Raises:
        UserError: as `load_bundle_predictor` and `check_golden`.
    """
    exported, bundle = load_bundle_predictor(path)
    logger.info("bundle %s: golden case reproduced, largest difference %.3g", path, check_golden(exported, bundle))
    recipe = bundle.content["recipe"]
    predictor = wrap_predictor(exported, {**recipe, "tta": bundle.mirrors}, mirrored=True)
    return Source(predictor, bundle.manager, recipe, path.resolve().name, bundle.postprocess)


def load_checkpoint_source(paths: Sequence[Path], changes: Mapping[str, Any] | None = None) -> Source:
    """Load one checkpoint, or several as an ensemble; `changes` are recipe keys to override.

    Raises:
        UserError: as `load_predictor`.
    """
    predictor, recipe, checkpoints = load_predictor(paths, changes)
    return Source(predictor, build_manager(recipe), plain(recipe), checkpoint_title(checkpoints),
                  Postprocess.from_recipe(recipe))
