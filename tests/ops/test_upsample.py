"""Upsampling and transposed convolution in one, against the two one after the other in float64."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from src.ops import UpConv3dTranspose

CASES = [((3, 3, 1), (2, 2, 1), True), ((3, 3, 1), (2, 2, 2), False), ((3, 1, 2), (1, 2, 2), False)]


def reference(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, factor, same: bool) -> np.ndarray:
    """Return the transposed convolution of stride 1 of the upsampled volume, by its definition, in float64."""
    x = x.astype(np.float64)
    for axis, n in enumerate(factor, 2):
        x = np.repeat(x, n, axis=axis)
    kernel = weight.shape[2:]
    size = [n + k - 1 for n, k in zip(x.shape[2:], kernel, strict=True)]
    y = np.zeros((x.shape[0], weight.shape[1], *size))
    for i, j, k in np.ndindex(*kernel):
        y[:, :, i:i + x.shape[2], j:j + x.shape[3], k:k + x.shape[4]] += np.einsum(
            "nixyz,io->noxyz", x, weight[:, :, i, j, k].astype(np.float64))
    if same:
        a, b, c = (k // 2 for k in kernel)
        y = y[:, :, a:a + x.shape[2], b:b + x.shape[3], c:c + x.shape[4]]
    return y + bias.reshape(1, -1, 1, 1, 1)


@pytest.mark.parametrize("served", [False, True])
@pytest.mark.parametrize(("kernel", "factor", "same"), CASES)
def test_against_the_definition(kernel, factor, same, served, request):
    if served:
        request.getfixturevalue("kernels_in_use")
    ms.set_context(mode=ms.GRAPH_MODE)
    rng = np.random.default_rng(0)
    layer = UpConv3dTranspose(3, 5, kernel, factor, same)
    assert layer.served == served
    layer.bias.set_data(Tensor(rng.normal(size=5).astype(np.float32)))
    x = rng.normal(size=(2, 3, 4, 3, 2)).astype(np.float32)
    weight, bias = layer.weight.asnumpy().copy(), layer.bias.asnumpy().copy()
    expected = reference(x, weight, bias, factor, same)
    found = layer(Tensor(x)).asnumpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4)

    # The layer is linear in each of input, weight and bias, so <dy, layer(v)> is <gradient, v> of each.
    dy = rng.normal(size=expected.shape).astype(np.float32)
    dx, (dweight, dbias) = ops.GradOperation(get_all=True, get_by_list=True, sens_param=True)(
        layer, list(layer.trainable_params()))(Tensor(x), Tensor(dy))
    assert (dweight.shape, dbias.shape) == (weight.shape, bias.shape)
    zero = np.zeros_like(bias)
    v, w, c = rng.normal(size=x.shape), rng.normal(size=weight.shape), rng.normal(size=bias.shape)
    for gradient, value, moved in (
            (dx[0], v, reference(v, weight, zero, factor, same)), (dweight, w, reference(x, w, zero, factor, same)),
            (dbias, c, np.broadcast_to(c.reshape(1, -1, 1, 1, 1), dy.shape))):
        product = float((gradient.asnumpy() * value).sum())
        assert product == pytest.approx(float((dy * moved).sum()), rel=1e-4, abs=1e-3)
    ms.set_context(mode=ms.PYNATIVE_MODE)
