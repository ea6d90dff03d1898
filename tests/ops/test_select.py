"""What is asked of the kernels has to be what they have."""

import pytest

from src.errors import UserError
from src.ops import select
from src.ops.select import UnitOptions, set_unit_options, stock_kernels, unit_options


@pytest.fixture
def without_onednn(kernels_in_use, monkeypatch):
    monkeypatch.setattr(kernels_in_use, "has_onednn", False)
    monkeypatch.setattr(kernels_in_use, "onednn_problem", "it is on holiday")


def test_direct_needs_onednn(without_onednn):
    with pytest.raises(UserError, match="found 'direct'.*it is on holiday.*--set conv_algorithm=auto"):
        set_unit_options(UnitOptions(algorithm="direct"))
    assert unit_options() == UnitOptions()
    set_unit_options(UnitOptions(algorithm="winograd"))
    assert unit_options().algorithm == "winograd"


def test_direct_is_taken_where_onednn_is_there_or_nothing_needs_it(kernels_in_use, monkeypatch):
    assert kernels_in_use.has_onednn
    direct = UnitOptions(algorithm="direct")
    set_unit_options(direct)
    assert unit_options() == direct
    # MindSpore's operators have no such choice: export of a recipe with `direct` goes on.
    monkeypatch.setattr(kernels_in_use, "has_onednn", False)
    with stock_kernels():
        set_unit_options(direct)
    monkeypatch.setattr(select, "_library", None)
    set_unit_options(direct)
