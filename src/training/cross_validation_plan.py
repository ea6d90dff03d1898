"""What a cross-validation is asked to do, checked before hours of training."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easydict import EasyDict

from src.checkpoint import BEST_NAME
from src.data import Case, get_task
from src.data.split import fold_split, read_split
from src.errors import UserError
from src.inference.ensemble import PREDICTION_KEYS
from src.inference.output import make_folder
from src.overrides import apply_overrides, load_recipe, read_changes
from src.training.pretrained import pretrained_path

CHECKPOINTS = ("last", "best")
TRAINED_NAME = "trained.json"  # in a fold's folder: that step is done, and how


@dataclass(frozen=True)
class CrossValidation:
    """What is asked for; `plan_cross_validation` makes it and checks it.

    Attributes:
        data_path: folder of the cases.
        split_path: split file of all cases that the folds are made of.
        names: its file names.
        output: folder for all results.
        recipe_name: key in `RECIPES`.
        recipe: with the changes, but for `fold` and `seed`.
            `keep_checkpoint_max` is 1 unless it was given: no more than the last and the best checkpoint are used.
        changes: arguments `--config` and `--set` that made it, without `--set` itself: (config or None, KEY=VALUE …).
        seeds: of the trainings; the folds are the same for all of them.
        device: command line arguments that choose the device.
        checkpoint: which one of a run is evaluated, of `CHECKPOINTS`. By default the last: the best one is chosen by
            the Dice of the very cases that are scored here, so its scores are too good.
        eval_changes: KEY=VALUE for `eval.py`.
        together: evaluate each fold by the mean of its networks of all seeds, too. Where a method takes a seed, None
            stands for them.
    """

    data_path: Path
    split_path: Path
    names: tuple[str, ...]
    output: Path
    recipe_name: str
    recipe: EasyDict
    changes: tuple[str | None, tuple[str, ...]]
    seeds: tuple[int, ...]
    device: tuple[str, ...] = ()
    checkpoint: str = "last"
    eval_changes: tuple[str, ...] = ()
    together: bool = False

    @property
    def folds(self) -> range:
        return range(self.recipe.folds)

    def seed_folder(self, seed: int | None) -> Path:
        return self.output / ("together" if seed is None else f"seed{seed}")

    def fold_folder(self, seed: int | None, fold: int) -> Path:
        return self.seed_folder(seed) / f"fold{fold}"

    def evaluation_folder(self, seed: int | None, fold: int) -> Path:
        return self.fold_folder(seed, fold) / "out_of_fold"

    def log_of(self, seed: int | None, fold: int, step: str) -> Path:
        return self.seed_folder(seed) / f"fold{fold}-{step}.log"

    @property
    def groups(self) -> tuple[int | None, ...]:
        """What is evaluated out of fold: each seed, and with `together` None."""
        return (*self.seeds, None) if self.together else self.seeds

    def members(self, seed: int | None, fold: int) -> list[tuple[int, int]]:
        """(seed, fold) of the runs whose networks predict a fold."""
        return [(one, fold) for one in (self.seeds if seed is None else (seed,))]

    def title_of(self, seed: int | None) -> str:
        if seed is None:
            return f"networks of seeds {', '.join(map(str, self.seeds))} together"
        return f"seed {seed}"

    def fold_recipe(self, seed: int, fold: int) -> EasyDict:
        """The recipe of a fold's run."""
        return apply_overrides(self.recipe, {"fold": fold, "seed": seed})

    def fold_names(self, fold: int) -> tuple[list[str], list[str]]:
        """Training and validation file names of a fold, the same for every seed."""
        return fold_split(self.names, fold, self.recipe.folds, self.recipe.fold_seed)

    def checkpoint_of(self, seed: int, fold: int) -> tuple[Path, str | None]:
        """The checkpoint of a finished run that is evaluated, and its SHA-256 at the end of the training.

        Whoever only collects results needs no such file.
        """
        folder = self.fold_folder(seed, fold)
        trained = read_json_or_nothing(folder / TRAINED_NAME)
        name = BEST_NAME if self.checkpoint == "best" else trained["last"]
        return folder / "ckpt" / name, trained["sha256"].get(name)


def plan_cross_validation(data_path: Path, split_path: Path, output: Path, recipe_name: str,
                          config: str | None = None, changes: Sequence[str] = (), folds: int | None = None,
                          seeds: Sequence[int] = (1,), **options: Any) -> CrossValidation:
    """Check all that can be checked before hours of training.

    Args:
        data_path, split_path, output, recipe_name, seeds: see `CrossValidation`.
        config, changes: changes of the recipe, see `load_recipe`; but for `fold` and `seed`.
        folds: in place of the recipe's; 2 at least.
        options: `device`, `checkpoint`, `eval_changes` and `together` of `CrossValidation`.

    Raises:
        UserError: a wrong setting, early stopping, a missing folder, fewer cases than folds, or a seed twice.
        DataError: the split file is wrong.
    """
    given = read_changes(config, changes)
    for key, option in (("fold", "--only"), ("seed", "--seeds")):
        if key in given:
            raise UserError(f"recipe key {key!r}: found {given[key]!r}, expected none, since every fold and seed gets "
                            f"its own; choose with {option}")
    recipe = load_recipe(recipe_name, config, changes)
    if folds is not None and folds < 2:
        raise UserError(f"--folds {folds}: expected at least 2 folds, of which each is held out once")
    if recipe.early_stopping:
        raise UserError(f"recipe key 'early_stopping': found {recipe.early_stopping}, expected 0: it ends a training "
                        "by the Dice of the very cases that are scored here, so even the last checkpoint is chosen by "
                        "them; set early_stopping=0, and a fixed number of epochs")
    keep = recipe.keep_checkpoint_max if "keep_checkpoint_max" in given else 1
    recipe = apply_overrides(recipe, {"folds": recipe.folds if folds is None else folds, "fold": -1,
                                      "keep_checkpoint_max": keep})
    if len(set(seeds)) != len(seeds) or not seeds:
        raise UserError(f"--seeds: found {', '.join(map(str, seeds)) or 'none'}, expected each once, and one at least")
    if options.get("together") and len(seeds) < 2:
        raise UserError(f"--together: found one seed, {seeds[0]}, expected several whose networks to average; give "
                        "--seeds 1,2")
    if not data_path.is_dir():
        raise UserError(f"--data_path {data_path}: no such folder; give the one that train.py takes")
    plan = CrossValidation(data_path.absolute(), split_path.absolute(), tuple(read_split(split_path)),
                           output.absolute(), recipe_name, recipe, (config, tuple(changes)), tuple(seeds),
                           **options)
    evaluated = read_changes(None, plan.eval_changes)
    allowed = (*PREDICTION_KEYS, "amp_level", "batch_size", "conv_algorithm")
    if other := sorted(set(evaluated) - set(allowed)):
        raise UserError(f"--eval_set {', '.join(other)}: expected keys of prediction alone "
                        f"({', '.join(allowed)}); others belong to the training, --set")
    apply_overrides(recipe, evaluated)
    plan.fold_names(0)
    for seed in seeds:
        plan.fold_recipe(seed, 0)
    make_folder(plan.output, "--output_dir")
    return plan


def check_pretrained(plan: CrossValidation, folds: Sequence[int]) -> None:
    """Look up the weights that folds are to begin with, of those that have not begun yet.

    Raises:
        UserError: see `pretrained_path`.
    """
    for seed in plan.seeds:
        for fold in folds:
            if not (plan.fold_folder(seed, fold) / "recipe.json").is_file():
                pretrained_path(plan.fold_recipe(seed, fold))


def check_test_split(plan: CrossValidation, test_split: Path, test_data: Path | None = None) -> list[Case]:
    """Look test cases up before the training, and return them.

    Raises:
        UserError: the folder is missing or wrong, or a case of it is trained on.
        DataError: the split cannot be read, or a case lacks a file; lists all.
    """
    seen = sorted(set(read_split(test_split)) & set(plan.names))
    if test_data is not None and not test_data.is_dir():
        raise UserError(f"--test_data_path {test_data}: no such folder; give the one that holds the test cases")
    if seen and (test_data is None or test_data.samefile(plan.data_path)):
        raise UserError(f"--test_split_file_path {test_split}: {', '.join(seen[:5])}{', …' * (len(seen) > 5)} in "
                        f"{plan.split_path} as well, expected cases that no fold is trained on; take them out of one")
    return get_task(plan.recipe.task).find_cases(test_data or plan.data_path, read_split(test_split))


def read_json_or_nothing(path: Path) -> Mapping[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
