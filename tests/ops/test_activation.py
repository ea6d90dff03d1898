"""Activations by hand."""

import numpy as np
import pytest
from mindspore import Tensor

from src.ops.activation import ChannelPReLU, ExportableELU, activation


def test_prelu_has_a_slope_per_channel():
    layer = ChannelPReLU(2)
    assert layer.weight.asnumpy().tolist() == [0.25, 0.25]
    layer.weight.set_data(Tensor(np.array([0.5, -1.0], np.float32)))
    x = np.array([[-2.0, 3.0], [-2.0, 3.0]], np.float32).reshape(1, 2, 2, 1, 1)
    assert layer(Tensor(x)).asnumpy().ravel().tolist() == [-1.0, 3.0, 2.0, 3.0]


def test_exportable_elu_equals_elu():
    x = Tensor(np.linspace(-20, 20, 101, dtype=np.float32).reshape(1, 1, 101))
    expected = np.where(x.asnumpy() > 0, x.asnumpy(), np.expm1(x.asnumpy().astype(np.float64)))
    np.testing.assert_allclose(ExportableELU()(x).asnumpy(), expected, atol=1e-6)
    np.testing.assert_allclose(activation("elu", 1)(x).asnumpy(), expected, atol=1e-6)


def test_unknown_activation():
    with pytest.raises(ValueError, match="expected one of none, elu, prelu"):
        activation("relu", 1)
