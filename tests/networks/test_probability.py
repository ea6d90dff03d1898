"""Probabilities of logits whose softmax is worked out in float64."""

import numpy as np
import pytest
from mindspore import Tensor, nn

from src.networks import ForegroundProbability


class Logits(nn.Cell):
    """Gives its input back, as if it were the logits of an image."""

    def construct(self, x):
        return x


def probability(logits: np.ndarray) -> np.ndarray:
    return ForegroundProbability(Logits())(Tensor(logits.astype(np.float32))).asnumpy()


@pytest.mark.parametrize("classes", [3, 5])
def test_every_class_of_several(classes):
    logits = np.random.default_rng(1).normal(0, 3, (2, classes, 3, 4, 5))
    exponentials = np.exp(logits)
    found = probability(logits)
    assert found.shape == logits.shape
    np.testing.assert_allclose(found, exponentials / exponentials.sum(axis=1, keepdims=True), atol=2e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=2e-6)


def test_foreground_of_two():
    logits = np.random.default_rng(2).normal(0, 3, (2, 2, 3, 4, 5))
    found = probability(logits)
    assert found.shape == (2, 3, 4, 5)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(logits[:, 0] - logits[:, 1])), atol=2e-6)


def test_large_logits_stay_finite():
    logits = np.array([1e4, -1e4, 0]).reshape(1, 3, 1, 1, 1)
    assert probability(logits).ravel().tolist() == [1, 0, 0]
