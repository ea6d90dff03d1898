"""Each form of unit, forward and backward, against float64."""

from dataclasses import replace

import numpy as np
import pytest

from src.ops.cpu.unit_op import UnitForm
from tests.ops.reference import relative_error
from tests.ops.units import EPSILON, MOMENTUM, UnitCase


def form(kind="same", channels=16, kernel=5, norm=True, act="elu", residual="none", residual_act="none", joined=False,
         instance=False):
    return UnitForm(kind, kernel, channels, norm, act, residual, residual_act, joined, instance)


INSTANCES = ("same, own residual", "same, given residual", "same, many channels", "down, wide", "up, joined", "input",
             "output")
# Sizes of one voxel, of no tile's multiple, non-cubic; batches of 1 to 3; each residual and activation.
CASES = {
    "same": UnitCase(form(), 16, (6, 5, 9)),
    "same, one voxel, batch 3": UnitCase(form(norm=False), 16, (1, 1, 1), 3),
    "same, wider": UnitCase(form(channels=48), 32, (9, 4, 7), 2),
    "same, own residual": UnitCase(form(residual="own", residual_act="elu"), 16, (8, 9, 5), 2),
    "same, given residual": UnitCase(form(channels=32, residual="given", residual_act="elu"), 16, (5, 6, 3), 3),
    "same, many channels": UnitCase(form(channels=128), 128, (3, 4, 2)),
    "same, prelu without norm": UnitCase(form(norm=False, act="prelu", residual="own", residual_act="prelu"), 16,
                                         (4, 3, 10)),
    "same, bare": UnitCase(form(norm=False, act="none"), 32, (7, 8, 9)),
    "down": UnitCase(form("down", 32, 2), 16, (4, 6, 2), 3),
    "down, wide": UnitCase(form("down", 96, 2, act="prelu"), 48, (6, 2, 8), 2),
    "down to one voxel": UnitCase(form("down", 32, 2, norm=False), 16, (2, 2, 2)),
    "up": UnitCase(form("up", 16, 2), 32, (3, 2, 5), 2),
    "up, joined": UnitCase(form("up", 16, 2, joined=True), 64, (3, 2, 4), 3, skip_channels=32),
    "up, joined, prelu": UnitCase(form("up", 48, 2, norm=False, act="prelu", joined=True), 32, (1, 2, 3), 2,
                                  skip_channels=16),
    "input": UnitCase(form("input", 16, act="none", residual="image", residual_act="elu"), 1, (6, 7, 9), 2),
    "input, wide": UnitCase(form("input", 48, norm=False, act="none", residual="image", residual_act="prelu"), 1,
                            (3, 1, 5), 3),
    "input, plain": UnitCase(form("input", 16), 1, (3, 2, 5)),
    "output": UnitCase(form("output", 2), 32, (6, 7, 9), 2),
    "output, 1 voxel": UnitCase(form("output", 2, norm=False), 16, (1, 1, 1)),
    "output, prelu": UnitCase(form("output", 3, norm=False, act="prelu"), 48, (5, 3, 4), 3),
    "output, 1x1x1": UnitCase(form("output", 2, 1, norm=False, act="none"), 32, (3, 4, 5), 2),
    "output, 3x3x3": UnitCase(form("output", 5, 3, act="none"), 16, (3, 4, 17), 2),
}
# Instance norm differs in what the samples share alone.
CASES |= {f"{name}, instance": UnitCase(replace(case.form, instance=True), case.in_channels, case.size, 3,
                                        case.skip_channels)
          for name, case in CASES.items() if name in INSTANCES}
WINOGRAD_AND_DIRECT = {name: case for name, case in CASES.items() if name.startswith("same")}

# Winograd's transforms cost digits, see docs/cpu_backend.md: relative L2 errors of a convolution, and through batch
# norm and activation of a unit, stay below these.
BOUND = 5e-5
# A gradient through batch norm at one value a channel, or a bias's, has no size to be relative to.
TINY = 1e-3


def close(found: np.ndarray, expected: np.ndarray, bound: float) -> None:
    assert np.isfinite(found).all()
    if np.linalg.norm(expected) < TINY:
        np.testing.assert_allclose(found, expected, atol=TINY)
    else:
        assert relative_error(found, expected) < bound


def with_options(case: UnitCase, **options) -> UnitCase:
    fields = ("form", "in_channels", "size", "samples", "skip_channels")
    return UnitCase(**{**{name: getattr(case, name) for name in fields}, **options})


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_forward_and_backward(library, name, threads):
    before = library.threads
    library.set_threads(threads)
    try:
        check(library, CASES[name], BOUND)
    finally:
        library.set_threads(before)


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
@pytest.mark.parametrize("name", WINOGRAD_AND_DIRECT)
def test_algorithms(library, name, algorithm):
    check(library, with_options(CASES[name], algorithm=algorithm), BOUND if algorithm == "winograd" else 5e-6)


@pytest.mark.parametrize("name", CASES)
def test_bf16_storage(library, name):
    # 8 bits of mantissa: a rounding error of up to 2^-9 of each value that is stored, and of those it was made from.
    check(library, with_options(CASES[name], storage="bfloat16"), 2e-2)


def check(library, case: UnitCase, bound: float) -> None:
    _, (_, out, _) = case.forward(library)
    close(case.read(out), case.expected(), bound)
    close(case.read(case.inference(library)), case.expected(training=False), bound)
    expected = case.expected_gradients()
    found = case.backward(library)
    for name in wanted_gradients(case):
        try:
            close(case.read(found[name]), expected[name], bound)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def wanted_gradients(case: UnitCase) -> list[str]:
    """Return the gradients that a form of unit has; its other outputs are not written."""
    form = case.form
    present = {"dx": form.kind != "input", "dweight": True, "dbias": True, "dgamma": form.norm, "dbeta": form.norm,
               "dresidual": form.residual == "given" or form.joined, "dslope": form.act == "prelu",
               "dslope2": form.residual_act == "prelu"}
    return [name for name, here in present.items() if here]


def test_moving_statistics(library):
    case = CASES["same, wider"]
    inputs, _ = case.forward(library)
    v = case.values
    y = case.convolved(v["x"], v["weight"]) + v["bias"].astype(np.float64).reshape(1, -1, 1, 1, 1)
    np.testing.assert_allclose(inputs["mean"], MOMENTUM * v["mean"] + (1 - MOMENTUM) * y.mean((0, 2, 3, 4)), rtol=1e-4,
                               atol=1e-5)
    np.testing.assert_allclose(
        inputs["variance"], MOMENTUM * v["variance"] + (1 - MOMENTUM) * y.var((0, 2, 3, 4), ddof=1), rtol=1e-4)


def assert_spoiled(found: np.ndarray, expected: np.ndarray) -> None:
    """Whatever is not finite in the reference isn't in `found`, and there is some; Winograd's tiles may have more."""
    spoiled = ~np.isfinite(expected)
    assert spoiled.any()
    assert not np.isfinite(found[spoiled]).any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["same", "same, own residual", "same, many channels", "same, bare", "down",
                                  "up, joined", "input", "output"])
def test_what_is_not_finite_reaches_all_results(library, name, value):
    case = with_options(CASES[name])
    case.values["x"][0, 0, 0, 0, 0] = value
    with np.errstate(invalid="ignore"):
        assert_spoiled(case.read(case.forward(library)[1][1]), case.expected())
        inferred = case.read(case.inference(library))
        assert_spoiled(inferred, case.expected(training=False))
    assert np.isfinite(inferred[1:]).all()  # without batch statistics no other sample is touched
    case = with_options(CASES[name])
    case.values["dout"][0, 0, 0, 0, 0] = value
    found = case.backward(library)
    with np.errstate(invalid="ignore"):
        expected = case.expected_gradients()
    for gradient in {"dx", "dweight"} & set(wanted_gradients(case)):
        assert_spoiled(case.read(found[gradient]), expected[gradient])
    # A number a channel: those of other channels stay as they are.
    for gradient in {"dgamma", "dbeta"} & set(wanted_gradients(case)):
        np.testing.assert_array_equal(np.isfinite(found[gradient]), [False] + [True] * (case.form.channels - 1))


# Volumes from 16 MiB on (less in the convolutions themselves) are written past the caches. The samples of these are
# equal, so that the reference has to do one only; no size is a multiple of what the kernels do at a time.
LARGE = {
    "same": (UnitCase(form(residual="given", residual_act="elu"), 16, (15, 17, 17)), 61),
    "same, own residual": (UnitCase(form(residual="own", residual_act="prelu"), 16, (15, 17, 17)), 61),
    "up, joined": (UnitCase(form("up", 16, 2, joined=True), 32, (7, 9, 5), skip_channels=16), 105),
    "down": (UnitCase(form("down", 48, 2), 16, (14, 18, 22)), 127),
    "input": (UnitCase(form("input", 16, act="none", residual="image", residual_act="elu"), 1, (15, 17, 17)), 61),
}


@pytest.mark.parametrize(("name", "storage"), [*((name, "float32") for name in LARGE), ("same", "bfloat16")])
def test_volumes_that_are_streamed(library, name, storage):
    one, samples = LARGE[name]
    one, many = (with_options(one, storage=storage, samples=n, values={}) for n in
                 (1, samples * (2 if storage == "bfloat16" else 1)))
    many.values = {key: np.repeat(value, many.samples, 0) if key in ("x", "residual", "skip", "keep", "dout") else value
                   for key, value in one.values.items()}
    _, (_, out, _) = many.forward(library)
    assert out.ctypes.data % 64 == 0
    assert many.form.channels * many.samples * np.prod(many.conv_shape()[2:]) * out.itemsize >= 16 << 20
    if storage == "float32":
        expected_out, expected, bound = one.expected(), one.expected_gradients(), BOUND
    else:  # equal samples, equal rounding: against the same kernels on one sample, whose sums have another order
        expected_out = one.read(one.forward(library)[1][1])
        expected, bound = {key: one.read(value) for key, value in one.backward(library).items()}, 1e-3
    close(many.read(out), np.repeat(expected_out, many.samples, 0), bound)
    found = many.backward(library)
    for gradient in wanted_gradients(many):
        of_volume = gradient in ("dx", "dresidual")
        value = np.repeat(expected[gradient], many.samples, 0) if of_volume else many.samples * expected[gradient]
        close(many.read(found[gradient]), value, bound)


@pytest.mark.parametrize("name", ["same, direct", "same, winograd", "down", "up", "input", "output"])
def test_batch_norm_of_values_far_from_zero(library, name):
    """Sums of squares lose (mean / std)² of fp32's digits: at 100 the variance is still right within 1 %."""
    cases = {"same, direct": UnitCase(form(), 16, (8, 10, 9), algorithm="direct"),
             "same, winograd": UnitCase(form(), 16, (8, 10, 9), algorithm="winograd"),
             "down": UnitCase(form("down", 32, 2), 16, (16, 12, 10)), "up": UnitCase(form("up", 16, 2), 32, (8, 6, 5)),
             "input": UnitCase(form("input", 16), 1, (12, 10, 9)),
             "output": UnitCase(form("output", 2), 32, (8, 10, 9))}
    case, axes = cases[name], (0, 2, 3, 4)
    y = case.convolved(case.values["x"], case.values["weight"])
    case.values["bias"] = (100 * y.std(axes) * np.sign(case.values["bias"]) - y.mean(axes)).astype(np.float32)
    y += case.values["bias"].astype(np.float64).reshape(1, -1, 1, 1, 1)
    _, (_, out, (mean, inverse)) = case.forward(library)
    assert np.abs(y.mean(axes) / y.std(axes)).min() > 99
    assert np.abs((mean - y.mean(axes)) / y.std(axes)).max() < 1e-4
    np.testing.assert_allclose(1 / inverse.astype(np.float64) ** 2 - EPSILON, y.var(axes), rtol=1e-2)
    close(case.read(out), case.expected(), 3e-3)
    expected, found = case.expected_gradients(), case.backward(library)
    for gradient in wanted_gradients(case):
        close(case.read(found[gradient]), expected[gradient], 1e-2)


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_same_bits_each_time(library, name, storage):
    case = with_options(CASES[name], storage=storage)
    first, second = case.backward(library), case.backward(library)
    for key in wanted_gradients(case):
        np.testing.assert_array_equal(first[key], second[key], key)
