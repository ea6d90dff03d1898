"""What a run is: recipe, cases and folder, made anew or read back from the run folder."""

import datetime
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from easydict import EasyDict

from src.config import RECIPES
from src.data.split import fold_split, read_split, split_hash, split_problems, write_split
from src.errors import UserError
from src.files import write_json
from src.overrides import apply_overrides, plain

logger = logging.getLogger(__name__)

_PLAN_NAME = "recipe.json"
_ARGUMENTS_NAME = "args.json"


@dataclass(frozen=True)
class RunPlan:
    """A run before it starts.

    Attributes:
        run_dir: folder for all that the run writes.
        recipe_name: key in `RECIPES`.
        recipe: checked settings.
        data_path: folder of the data set.
        train_names, validation_names: names of the cases as split files have them; the latter may be empty.
        resumed: whether the run folder was there before.
        problems: what is wrong with the split files; `build.check_data` lists it with the problems of the cases.
        commands: command lines of the earlier starts.
    """

    run_dir: Path
    recipe_name: str
    recipe: EasyDict
    data_path: Path
    train_names: list[str]
    validation_names: list[str]
    resumed: bool = False
    problems: tuple[str, ...] = ()
    commands: tuple[list[str], ...] = ()

    @property
    def checkpoint_folder(self) -> Path:
        return self.run_dir / "ckpt"

    def checkpoint_state(self) -> dict[str, Any]:
        """Return what every checkpoint of the run says about it."""
        return {"recipe_name": self.recipe_name, "recipe": plain(self.recipe), "data_path": str(self.data_path),
                "train_names": self.train_names, "validation_names": self.validation_names,
                "split_hash": self.split_hash()}

    def split_hash(self) -> str:
        """Return a hash of both splits: of the training cases, then of the validation cases."""
        return f"{split_hash(self.train_names)}-{split_hash(self.validation_names)}"

    def save(self, backend: Mapping[str, Any], arguments: Mapping[str, Any] | None = None) -> None:
        """Write `train.csv`, `val.csv`, `args.json` and, last, `recipe.json`: a folder with the latter is a run.

        `args.json` has all `arguments` of the command line and all keys of the recipe side by side. Of a resumed run
        those that were not given again stay as they were.
        """
        if not self.resumed:
            write_split(self.run_dir / "train.csv", self.train_names)
            if self.validation_names:
                write_split(self.run_dir / "val.csv", self.validation_names)
        write_json(self.run_dir / _ARGUMENTS_NAME, {
            **self._merged(arguments or {}), "recipe": self.recipe_name, "run_dir": str(self.run_dir),
            **plain(self.recipe)})
        write_json(self.run_dir / _PLAN_NAME, {
            **self.checkpoint_state(), "backend": backend, "commands": [*self.commands, sys.argv],
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds")})

    def _merged(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of this start, of a resumed run over those of the start before."""
        path = self.run_dir / _ARGUMENTS_NAME
        if not self.resumed or not path.is_file():  # runs of earlier versions have no such file
            return dict(arguments)
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: not as a run writes it ({error}); restore it, or delete it") from error
        return {**earlier, **{name: value for name, value in arguments.items()
                              if name not in earlier or value not in (None, [])}}


def new_plan(recipe_name: str, recipe: EasyDict, data_path: str | None, train_split: str | None,
             validation_split: str | None = None, run_dir: str | None = None) -> RunPlan:
    """Return the plan of a new run.

    Validation cases are, with `fold` >= 0, that fold of the training split; else those of `validation_split`, or of
    `val.csv` beside the training split where there is one.

    What is wrong inside the split files, a case in both of them included, is collected in the plan's `problems`.

    Raises:
        UserError: a missing argument or data folder, or a run folder in use.
    """
    if not data_path or not train_split:
        raise UserError("a new run needs --data_path (the folder of the data set) and --train_split_file_path")
    folder = Path(run_dir) if run_dir else _default_run_dir(recipe_name)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--run_dir {folder}: is a file, expected a folder or a new name")
    if (folder / _PLAN_NAME).exists():
        raise UserError(f"run folder {folder}: holds a run already; continue it with --resume {folder}, "
                        "or name another with --run_dir")
    if not Path(data_path).is_dir():
        raise UserError(f"--data_path {data_path}: no such folder; expected the one of the data set")
    train, problems = split_problems(Path(train_split))
    validation: list[str] = []
    if recipe.fold >= 0:
        if validation_split:
            raise UserError("fold >= 0 takes the validation cases from the training split: "
                            "leave out --val_split_file_path, or set fold=-1")
        if not problems:
            train, validation = fold_split(train, recipe.fold, recipe.folds, recipe.fold_seed)
    else:
        validation, more = _validation_names(Path(train_split), validation_split)
        problems += more
    problems += [f"{name}: in the training and in the validation split; a validation case must not be trained on: "
                 f"take it out of {train_split}" for name in sorted(set(train) & set(validation))]
    return RunPlan(folder, recipe_name, recipe, Path(data_path).absolute(), train, validation,
                   problems=tuple(problems))


def resumed_plan(run_dir: str, epochs: int | None = None, data_path: str | None = None,
                 train_split: str | None = None) -> RunPlan:
    """Return the plan of the run in `run_dir`, with another number of epochs or place of the data if given.

    `train_split` changes nothing: the launch scripts always pass one, and it has to be the run's own.

    Raises:
        UserError: no run there, its files do not fit each other, `train_split` has other cases, or the run augments in
            the way of an earlier version.
    """
    folder = Path(run_dir)
    path = folder / _PLAN_NAME
    if not path.is_file():
        raise UserError(f"--resume {folder}: no {_PLAN_NAME} in it, so no run to continue; start one with --run_dir")
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        plan = RunPlan(
            folder, saved["recipe_name"], apply_overrides(RECIPES[saved["recipe_name"]], saved["recipe"]),
            Path(data_path or saved["data_path"]).absolute(), list(saved["train_names"]),
            list(saved["validation_names"]), resumed=True, commands=tuple(saved["commands"]))
        saved_hash, begun_with = saved["split_hash"], saved["recipe"]
    except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise UserError(f"{path}: not as a run writes it ({error}); restore it, or start a new run") from error
    if plan.split_hash() != saved_hash:
        raise UserError(f"{path}: train_names or validation_names were changed since the run began (split_hash "
                        "differs); a run continues only on the cases it began with")
    if plan.recipe.get("augment", False) and not any(key.startswith("aug_") for key in begun_with):
        # Its augmentation was another; the rest of the run would silently train on other samples than its beginning.
        raise UserError(f"{path}: a run with augment=true of an earlier version: found no aug_* keys in its recipe, "
                        "expected those that say which augmentation it trains with. Finish it with the version of the "
                        "program that began it, or start a new run")
    if train_split and not set(plan.train_names) <= set(read_split(Path(train_split))) <= {
            *plan.train_names, *plan.validation_names}:
        raise UserError(f"{train_split}: other cases than {folder} was trained on; leave out --train_split_file_path, "
                        "or start a new run without --resume")
    return with_epochs(plan, epochs)


def with_epochs(plan: RunPlan, epochs: int | None) -> RunPlan:
    """Return the plan with `epochs` set; unchanged for None.

    Raises:
        UserError: a resumed run would get fewer epochs than it was planned for.
    """
    if epochs is None:
        return plan
    if plan.resumed and epochs < plan.recipe.epochs:
        raise UserError(f"--epochs {epochs}: {plan.run_dir} is planned for {plan.recipe.epochs} epochs, and a resumed "
                        "run can only be extended; its checkpoints can be evaluated as they are")
    return replace(plan, recipe=apply_overrides(plan.recipe, {"epochs": epochs}))


def _default_run_dir(recipe_name: str) -> Path:
    return Path("runs") / f"{recipe_name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _validation_names(train_split: Path, validation_split: str | None) -> tuple[list[str], list[str]]:
    beside = train_split.with_name("val.csv")
    if validation_split:
        return split_problems(Path(validation_split))
    if beside.is_file() and beside != train_split:
        logger.info("validation cases: %s, beside the training split", beside)
        return split_problems(beside)
    logger.warning("no validation cases: pass --val_split_file_path, or set fold; only the training loss is shown")
    return [], []
