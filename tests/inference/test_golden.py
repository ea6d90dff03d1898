"""Which case becomes the golden one."""

from pathlib import Path

import pytest

from src.checkpoint import Checkpoint
from src.errors import UserError
from src.inference.golden import SAMPLE_DATA, golden_case
from tests.inference.helpers import bright_case

RECIPE = {"task": "promise12"}


def state(**entries) -> Checkpoint:
    return Checkpoint(Path("c.ckpt"), {}, entries)


def test_golden_case_is_the_first_validation_case_there():
    names = ["Missing.mhd", "Case27.mhd", "Case24.mhd"]
    assert golden_case(state(validation_names=names), RECIPE, SAMPLE_DATA).case_id == "Case27"
    assert golden_case(state(), RECIPE, SAMPLE_DATA).case_id == "Case00"


def test_golden_case_is_of_the_training_data_only_when_asked(tmp_path):
    bright_case(tmp_path / "hospital", "Case26")
    bright_case(tmp_path / "hospital", "Case03")
    trained = state(data_path=str(tmp_path / "hospital"), validation_names=["Case26.mhd"])
    assert golden_case(trained, RECIPE).image_path == SAMPLE_DATA / "img" / "Case00.mhd"
    asked = golden_case(trained, RECIPE, tmp_path / "hospital")
    assert asked.image_path == tmp_path / "hospital" / "img" / "Case26.mhd"
    with pytest.raises(UserError, match="there is none: .*elsewhere.* Give a data folder with --data_path"):
        golden_case(trained, RECIPE, tmp_path / "elsewhere")
