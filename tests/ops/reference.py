"""Float64 references, written for clarity: what the CPU kernels are measured against."""

import itertools

import numpy as np

LANES = 16


def blocked(x: np.ndarray) -> np.ndarray:
    """Return (N, C, X, Y, Z) as (N, C/16, X, Y, Z, 16) fp32."""
    n, c, *size = x.shape
    return np.ascontiguousarray(np.moveaxis(x.reshape(n, c // LANES, LANES, *size), 2, -1), np.float32)


def plain(x: np.ndarray) -> np.ndarray:
    """Return (N, C/16, X, Y, Z, 16) as (N, C, X, Y, Z) float64."""
    n, blocks, *size, lanes = x.shape
    return np.moveaxis(x, -1, 2).reshape(n, blocks * lanes, *size).astype(np.float64)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the relative L2 error."""
    return float(np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected))


def _taps(weight: np.ndarray, stride: int, size: tuple[int, ...]):
    """Yield each tap of a kernel with the slices of the padded input that it meets."""
    for tap in itertools.product(*(range(k) for k in weight.shape[2:])):
        yield tap, tuple(slice(t, t + stride * (n - 1) + 1, stride) for t, n in zip(tap, size, strict=True))


def _padded(x: np.ndarray, padding: int) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), *((padding, padding),) * (x.ndim - 2)))


def conv(x: np.ndarray, weight: np.ndarray, stride: int = 1, padding: int = 0) -> np.ndarray:
    """Return the convolution (without bias) of x (N, I, ...) with weight (O, I, k, ...)."""
    source = _padded(x.astype(np.float64), padding)
    size = tuple((n - k) // stride + 1 for n, k in zip(source.shape[2:], weight.shape[2:], strict=True))
    out = np.zeros((len(x), len(weight), *size))
    for tap, place in _taps(weight, stride, size):
        out += np.einsum("oi,ni...->no...", weight[(..., *tap)].astype(np.float64), source[(..., *place)])
    return out


def conv_gradients(x: np.ndarray, weight: np.ndarray, dy: np.ndarray, stride: int = 1,
                   padding: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of `conv` to its input and weight for the gradient dy of its output."""
    source = _padded(x.astype(np.float64), padding)
    dsource, dweight, dy = np.zeros_like(source), np.zeros(weight.shape), dy.astype(np.float64)
    for tap, place in _taps(weight, stride, dy.shape[2:]):
        dsource[(..., *place)] += np.einsum("oi,no...->ni...", weight[(..., *tap)].astype(np.float64), dy)
        dweight[(..., *tap)] = np.tensordot(dy, source[(..., *place)], ([0, *range(2, dy.ndim)],) * 2)
    inner = tuple(slice(padding, n - padding) for n in source.shape[2:])
    return dsource[(..., *inner)], dweight


def conv_transpose(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """Return the transposed convolution (no bias, no padding) of x (N, I, ...) with weight (I, O, k, ...)."""
    size = tuple((n - 1) * stride + k for n, k in zip(x.shape[2:], weight.shape[2:], strict=True))
    return conv_gradients(np.zeros((len(x), weight.shape[1], *size)), weight, x, stride)[0]


def conv_transpose_gradients(x: np.ndarray, weight: np.ndarray, dy: np.ndarray,
                             stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of `conv_transpose`: it is the adjoint of `conv`, so their roles swap."""
    return conv(dy, weight, stride), conv_gradients(dy, weight, x, stride)[1]


def _channels(values: np.ndarray | None, ndim: int) -> np.ndarray:
    return np.asarray(values, np.float64).reshape((1, -1) + (1,) * (ndim - 2))


def act(name: str, x: np.ndarray, slope: np.ndarray | None = None) -> np.ndarray:
    if name == "elu":
        return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
    return np.where(x > 0, x, _channels(slope, x.ndim) * x) if name == "prelu" else x


def act_gradients(name: str, x: np.ndarray, dout: np.ndarray,
                  slope: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradients of `act` to x and to the slopes."""
    axes = (0, *range(2, x.ndim))
    if name == "elu":
        return dout * np.where(x > 0, 1, np.exp(np.minimum(x, 0))), np.zeros(1)
    if name == "prelu":
        return (dout * np.where(x > 0, 1, _channels(slope, x.ndim)),
                (dout * np.minimum(x, 0)).sum(axes))
    return dout, np.zeros(1)


def batch_norm(y: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float) -> np.ndarray:
    axes = (0, *range(2, y.ndim))
    mean, variance = y.mean(axes, keepdims=True), y.var(axes, keepdims=True)
    return (y - mean) / np.sqrt(variance + epsilon) * _channels(gamma, y.ndim) + _channels(beta, y.ndim)


def batch_norm_gradients(y: np.ndarray, gamma: np.ndarray, epsilon: float,
                         dz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradients of `batch_norm` to y, gamma and beta."""
    axes = (0, *range(2, y.ndim))
    inverse = 1 / np.sqrt(y.var(axes, keepdims=True) + epsilon)
    normed = (y - y.mean(axes, keepdims=True)) * inverse
    dgamma, dbeta = (dz * normed).sum(axes), dz.sum(axes)
    count = y.size / y.shape[1]
    dy = _channels(gamma, y.ndim) * inverse * (
        dz - _channels(dbeta, y.ndim) / count - normed * _channels(dgamma, y.ndim) / count)
    return dy, dgamma, dbeta
