"""From files on disk to the arrays a network sees, and back.

`TASKS` maps the config's `task` to the module that knows how its data set lies on disk: `find_cases`, `scan_cases`,
`all_names`, `find_inputs`; `build_manager` gives its preprocessing.
"""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from src.data import brain_tumour, drive, em, hippocampus, lgg, msd, prostate
from src.data.case import Case
from src.data.data_manager import DataManager
from src.errors import UserError

TASKS: dict[str, ModuleType] = {"promise12": prostate, "hippocampus": hippocampus, "brain_tumour": brain_tumour,
                                "lgg": lgg, "drive": drive, "em": em}
_MANAGERS: dict[str, type[DataManager]] = {"brain_tumour": brain_tumour.BrainTumourManager, "lgg": lgg.LggManager,
                                           "drive": drive.DriveManager, "em": em.EmManager}


def get_task(name: str) -> ModuleType:
    """Return the module of the data set `name`, a recipe's `task`.

    Raises:
        UserError: unknown name.
    """
    if name not in TASKS:
        raise UserError(f"recipe key 'task': found {name!r}, expected one of {', '.join(TASKS)}")
    return TASKS[name]


def guess_task(data_path: Path) -> str:
    """Return the task whose layout a data folder has; promise12 where it has none, whose messages fit best then.

    Both tasks of the Decathlon have one layout; brain_tumour takes arrays as well.
    """
    if (data_path / msd.IMAGE_FOLDER).is_dir():
        return "brain_tumour"
    if (data_path / prostate.IMAGE_FOLDER).is_dir():
        return "promise12"
    return next((name for name in ("drive", "em", "lgg") if TASKS[name].is_here(data_path)), "promise12")


def build_manager(recipe: Mapping[str, Any]) -> DataManager:
    """Return the preprocessing of the recipe's data set."""
    return _MANAGERS.get(recipe["task"], DataManager).from_config(recipe)


__all__ = ["TASKS", "Case", "build_manager", "get_task", "guess_task"]
