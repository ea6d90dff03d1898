"""The kernels keep their scratch memory and ask for no more."""

import re
from pathlib import Path

from src.ops.cpu.unit_op import UnitForm
from tests.ops.units import UnitCase


def resident_kib() -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1])


def test_no_leak_over_a_thousand_steps(library):
    form = UnitForm("same", 5, 16, True, "elu", "own", "elu", False)
    cases = [UnitCase(form, 16, (4, 5, 3), algorithm=algorithm) for algorithm in ("winograd", "direct")]
    resident, scratch = [], []
    for step in range(1000):
        for case in cases:
            case.backward(library)
        if step in (99, 999):
            resident.append(resident_kib())
            scratch.append(library.scratch_bytes)
    assert resident[1] - resident[0] < 2048
    assert scratch[0] == scratch[1] > 0
