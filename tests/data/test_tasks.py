"""A recipe's `task` names the data set's module."""

import pytest

from src.data import TASKS, get_task, prostate
from src.errors import UserError


def test_every_task_has_what_the_entry_scripts_call():
    assert get_task("promise12") is prostate
    for module in TASKS.values():
        assert {"find_cases", "scan_cases", "all_names"} <= set(dir(module))


def test_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'promise13', expected one of promise12"):
        get_task("promise13")
