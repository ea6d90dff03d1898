"""Squared norm and Adam over all parameters against float64."""

import numpy as np
import pytest

# Single values, less than a vector, more than a thread's share of it, several runs of the sums.
SHAPES = ((1,), (5, 3), (16,), (2,), (33, 4, 5), (32, 16, 5, 5, 5), (7, 11, 3), (4097,))
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def tensors(seed: int, scale: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(scale * rng.standard_normal(shape)).astype(np.float32) for shape in SHAPES]


def squared_norm(library, gradients) -> float:
    out = np.full(1, -1, np.float32)
    library.call("SquaredNorm", gradients, [out])
    return float(out[0])


class AdamState:
    """Parameters and moments as the kernel changes them, and in float64."""

    def __init__(self, decay: float = 0.0, decoupled: float = 0.0):
        self.parameters = tensors(0)
        self.first = [np.zeros_like(p) for p in self.parameters]
        self.second = [np.zeros_like(p) for p in self.parameters]
        self.powers = [np.ones((), np.float32), np.ones((), np.float32)]
        # Every second parameter decays, as weights do and vectors don't.
        self.decay = [decay * (i % 2) for i in range(len(SHAPES))]
        self.decoupled = [decoupled * (i % 2) for i in range(len(SHAPES))]
        self.expected = [[value.astype(np.float64) for value in values]
                         for values in (self.parameters, self.first, self.second)]
        self.steps = 0

    def update(self, library, gradients, rate: float, scale: float = 1.0, finite: bool = True) -> float:
        config = np.array([BETA1, BETA2, EPSILON, *self.decay, *self.decoupled], np.float32)
        out = np.full(1, -1, np.float32)
        scalars = [np.array(value, np.float32) for value in (rate, scale, finite)]
        library.call("AdamUpdate", [config, *scalars, *self.powers, *self.parameters, *self.first, *self.second,
                                    *gradients], [out])
        return float(out[0])

    def follow(self, gradients, rate: float, scale: float = 1.0) -> None:
        self.steps += 1
        step = rate * np.sqrt(1 - BETA2**self.steps) / (1 - BETA1**self.steps)
        parameters, first, second = self.expected
        for i, gradient in enumerate(gradients):
            parameters[i] = parameters[i] * (1 - rate * self.decoupled[i])
            gradient = scale * gradient.astype(np.float64) + self.decay[i] * parameters[i]
            first[i] = BETA1 * first[i] + (1 - BETA1) * gradient
            second[i] = BETA2 * second[i] + (1 - BETA2) * gradient**2
            parameters[i] = parameters[i] - step * first[i] / (np.sqrt(second[i]) + EPSILON)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_squared_norm(library, threads):
    gradients = tensors(1)
    library.set_threads(threads)
    try:
        found = [squared_norm(library, gradients) for _ in range(3)]
    finally:
        library.set_threads(2)
    expected = sum(float(np.sum(g.astype(np.float64) ** 2)) for g in gradients)
    assert found[0] == pytest.approx(expected, rel=3e-7)
    assert found[1:] == found[:1] * 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("tensor", "element"), [(0, 0), (1, 14), (5, 12345), (7, 4096)])
def test_squared_norm_shows_a_gradient_that_is_not_finite(library, value, tensor, element):
    gradients = tensors(1)
    gradients[tensor].flat[element] = value
    assert not np.isfinite(squared_norm(library, gradients))


@pytest.mark.parametrize("options", [{}, {"decay": 0.01}, {"decoupled": 0.1}, {"decay": 0.01, "decoupled": 0.1}])
@pytest.mark.parametrize("threads", [1, 2])
def test_adam_follows_the_formula_for_steps(library, options, threads):
    state = AdamState(**options)
    library.set_threads(threads)
    try:
        for step in range(5):
            gradients = tensors(10 + step, 128.0)
            rate = 0.01 / (step + 1)
            assert state.update(library, gradients, rate, 1 / 64) == sum(p.size for p in state.parameters)
            state.follow(gradients, rate, 1 / 64)
    finally:
        library.set_threads(2)
    for found, expected in zip((state.parameters, state.first, state.second), state.expected, strict=True):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)
    assert float(state.powers[0]) == pytest.approx(BETA1**5, rel=1e-6)
    assert float(state.powers[1]) == pytest.approx(BETA2**5, rel=1e-6)


def test_adam_does_the_same_as_mindspore(library):
    import mindspore as ms
    from mindspore import nn

    state = AdamState(decay=0.05)
    parameters = [ms.Parameter(ms.Tensor(p), name=f"p{i}") for i, p in enumerate(state.parameters)]
    groups = [{"params": [p], "weight_decay": decay} for p, decay in zip(parameters, state.decay, strict=True)]
    optimizer = nn.Adam(groups, learning_rate=0.003, beta1=BETA1, beta2=BETA2, eps=EPSILON)
    for step in range(3):
        gradients = tensors(20 + step)
        optimizer(tuple(ms.Tensor(g) for g in gradients))
        state.update(library, gradients, 0.003)
    for parameter, found in zip(parameters, state.parameters, strict=True):
        np.testing.assert_allclose(found, parameter.asnumpy(), rtol=1e-6, atol=1e-6)
    assert float(state.powers[1]) == pytest.approx(float(optimizer.beta2_power.asnumpy()), rel=1e-6)


def test_adam_changes_nothing_after_an_overflow(library):
    state = AdamState(decay=0.01, decoupled=0.1)
    state.update(library, tensors(2), 0.01)
    everything = [*state.parameters, *state.first, *state.second, *state.powers]
    before = [values.copy() for values in everything]
    assert state.update(library, [np.full_like(g, np.nan) for g in tensors(2)], 0.01, finite=False) == 0
    for values, old in zip(everything, before, strict=True):
        np.testing.assert_array_equal(values, old)


def test_adam_is_the_same_for_any_number_of_threads(library):
    states = []
    for threads in (1, 2, 3):
        library.set_threads(threads)
        try:
            states.append(AdamState(decay=0.01))
            states[-1].update(library, tensors(3), 0.01)
        finally:
            library.set_threads(2)
    for state in states[1:]:
        for a, b in zip(states[0].parameters, state.parameters, strict=True):
            np.testing.assert_array_equal(a, b)


def test_adam_refuses_tensors_that_do_not_belong_together(library):
    state = AdamState()
    gradients = tensors(2)
    gradients[3] = np.zeros(3, np.float32)
    with pytest.raises(RuntimeError, match="AdamUpdate: .*parameter 3 has another size"):
        state.update(library, gradients, 0.01)
    state.decay = state.decay[1:]
    with pytest.raises(RuntimeError, match=r"AdamUpdate: config has 18 values, expected 3 \+ 2 P for 8 parameters"):
        state.update(library, tensors(2), 0.01)


@pytest.mark.parametrize("sizes", [[5, 6], [2, 3], [33, 1], [16, 24, 24, 24, 7, 2, 1]])
@pytest.mark.parametrize("threads", range(1, 8))
def test_each_element_is_taken_once_wherever_the_shares_meet(library, sizes, threads):
    library.set_threads(threads)
    try:
        ones = [np.ones(size, np.float32) for size in sizes]
        assert squared_norm(library, ones) == sum(sizes)
        zeros = [np.zeros(size, np.float32) for size in sizes]
        first, second = [v.copy() for v in zeros], [v.copy() for v in zeros]
        config = np.array([BETA1, BETA2, EPSILON, *[0.0] * (2 * len(sizes))], np.float32)
        scalars = [np.array(value, np.float32) for value in (0.1, 1, 1)]
        library.call("AdamUpdate", [config, *scalars, np.ones((), np.float32), np.ones((), np.float32), *zeros, *first,
                                    *second, *ones], [np.zeros(1, np.float32)])
        for moment in first:
            np.testing.assert_allclose(moment, 1 - BETA1, rtol=1e-6)  # twice would give 0.19
    finally:
        library.set_threads(2)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_average_moves_by_the_share_and_not_at_all_at_zero(library, threads):
    averages, values, out = tensors(4), tensors(5), np.full(1, -1, np.float32)
    expected = [0.9 * a.astype(np.float64) + 0.1 * b for a, b in zip(averages, values, strict=True)]
    library.set_threads(threads)
    try:
        library.call("AverageUpdate", [np.array(0.1, np.float32), *averages, *values], [out])
        for found, wanted in zip(averages, expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
        assert out[0] == sum(a.size for a in averages)
        before = [a.copy() for a in averages]
        nan = [np.full_like(value, np.nan) for value in values]
        library.call("AverageUpdate", [np.array(0, np.float32), *averages, *nan], [out])
    finally:
        library.set_threads(2)
    for found, wanted in zip(averages, before, strict=True):
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(RuntimeError, match="average 3 has another size"):
        library.call("AverageUpdate", [np.array(1, np.float32), *averages, *values[:3], *values[4:], values[3]], [out])
