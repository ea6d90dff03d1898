"""From files on disk to the arrays a network sees, and back.

`TASKS` maps the config's `task` to the module that knows how its data set lies on disk: `find_cases`, `scan_cases`,
`all_names`; `build_manager` gives its preprocessing.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from src.data import brain_tumour, hippocampus, prostate
from src.data.case import Case
from src.data.data_manager import DataManager
from src.errors import UserError

TASKS: dict[str, ModuleType] = {"promise12": prostate, "hippocampus": hippocampus, "brain_tumour": brain_tumour}


def get_task(name: str) -> ModuleType:
    """Return the module of the data set `name`, a recipe's `task`.

    Raises:
        UserError: unknown name.
    """
    if name not in TASKS:
        raise UserError(f"recipe key 'task': found {name!r}, expected one of {', '.join(TASKS)}")
    return TASKS[name]


def build_manager(recipe: Mapping[str, Any]) -> DataManager:
    """Return the preprocessing of the recipe's data set."""
    if recipe["task"] == "brain_tumour":
        return brain_tumour.BrainTumourManager.from_config(recipe)
    return DataManager.from_config(recipe)


__all__ = ["TASKS", "Case", "build_manager", "get_task"]
