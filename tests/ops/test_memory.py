"""The kernels keep their scratch memory and ask for no more."""

import resource

from src.ops.cpu.unit_op import UnitForm
from tests.ops.units import UnitCase


def test_no_leak_over_a_thousand_steps(library):
    form = UnitForm("same", 5, 16, True, "elu", "own", "elu", False)
    cases = [UnitCase(form, 16, (4, 5, 3), algorithm=algorithm) for algorithm in ("winograd", "direct")]
    peaks = []
    for step in range(1000):
        for case in cases:
            case.backward(library)
        if step in (99, 999):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert peaks[1] - peaks[0] < 2048  # KiB
