"""From files on disk to the arrays a network sees, and back.

`TASKS` maps the config's `task` to the module that knows how its data set lies on disk: `find_cases`, `scan_cases`,
`all_names`.
"""

from types import ModuleType

from src.data import prostate
from src.data.case import Case
from src.errors import UserError

TASKS: dict[str, ModuleType] = {"promise12": prostate}


def get_task(name: str) -> ModuleType:
    """Return the module of the data set `name`, a recipe's `task`.

    Raises:
        UserError: unknown name.
    """
    if name not in TASKS:
        raise UserError(f"recipe key 'task': found {name!r}, expected one of {', '.join(TASKS)}")
    return TASKS[name]


__all__ = ["TASKS", "Case", "get_task"]
