"""A recipe's `task` names the data set's module."""

import pytest

from src.data import TASKS, get_task, prostate
from src.errors import UserError


def test_every_task_has_what_the_entry_scripts_call():
    assert get_task("promise12") is prostate
    for module in TASKS.values():
        assert {"find_cases", "scan_cases", "all_names", "case_id", "find_inputs"} <= set(dir(module))


def test_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'promise13', expected one of promise12"):
        get_task("promise13")


@pytest.mark.parametrize(("task", "name", "case_id"), [
    ("promise12", "Case00.mhd", "Case00"), ("hippocampus", "hippocampus_001.nii.gz", "hippocampus_001"),
    ("brain_tumour", "BRATS_001.npy", "BRATS_001"), ("lgg", "TCGA_CS_4941_19960909", "TCGA_CS_4941_19960909"),
    ("drive", "21_training.tif", "21_training"), ("em", "07.png", "07"),
    ("em", "train-volume.tif:7", "train-volume_07"),
])
def test_case_ids_of_the_names_in_split_files(task, name, case_id):
    assert get_task(task).case_id(name) == case_id
