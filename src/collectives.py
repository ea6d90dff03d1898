"""What the ranks of a run tell each other beside gradients: shares of cases, their results, averaged statistics.

Every rank has to call these functions, at the same point of its run. With one rank they cost nothing. They go over the
ranks' own connections (src/control.py); ranks that HCCL joined by a rank table have none and take MindSpore's AllGather
(not run here).
"""

import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

from src.backend import Backend
from src.errors import UserError

T = TypeVar("T")

ONE_RANK = Backend("CPU")  # for callers that know of no ranks; the device plays no part

_BLOCK = 4096  # bytes; payloads are filled up to multiples, so that few shapes occur and few operators are built


def gather(backend: Backend, value: T) -> list[T]:
    """Return the values of all ranks, in rank order and exactly as they were; whatever can be pickled."""
    if backend.world_size == 1:
        return [value]
    if backend.control is not None:
        return backend.control.gather(value)
    payload = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = _gather_bytes(np.frombuffer(np.int64(payload.size).tobytes(), np.uint8), backend.world_size)
    lengths = [int(np.frombuffer(row.tobytes(), np.int64)[0]) for row in sizes]
    padded = np.zeros(-(-max(lengths) // _BLOCK) * _BLOCK, np.uint8)
    padded[:payload.size] = payload
    rows = _gather_bytes(padded, backend.world_size)
    return [pickle.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def share(backend: Backend, items: Sequence[T]) -> list[T]:
    """Return this rank's items: every `world_size`-th, so that the shares differ by one item at most."""
    return list(items[backend.rank::backend.world_size])


def gather_shares(backend: Backend, work: Callable[[], Sequence[T]]) -> list[T]:
    """Call `work`, which gives a result for each item of this rank's share, and return the results of all items.

    They come in the order of the items that `share` was given, the same on every rank.

    Raises:
        UserError: raised by `work` on this or another rank; then every rank raises it, where they would otherwise
            wait for each other.
    """
    results: Sequence[T] = ()
    problem: UserError | None = None
    try:
        results = work()
    except UserError as error:
        problem = error
    outcomes = gather(backend, (list(results), None if problem is None else str(problem)))
    if problem is not None:
        raise problem
    for _, message in outcomes:
        if message is not None:
            raise UserError(message)
    parts = [part for part, _ in outcomes]
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]


def average(backend: Backend, parameters: Sequence[Parameter]) -> None:
    """Set fp32 parameters to their mean over the ranks."""
    if backend.world_size == 1 or not parameters:
        return
    everywhere = gather(backend, [parameter.asnumpy() for parameter in parameters])
    for parameter, *values in zip(parameters, *everywhere, strict=True):
        parameter.set_data(Tensor(np.mean(values, axis=0, dtype=np.float64).astype(np.float32)))


def _gather_bytes(values: np.ndarray, world_size: int) -> np.ndarray:
    """Return the bytes of each rank, (world_size, n) uint8; as fp32 numbers they travel without a loss."""
    gathered: Any = ops.AllGather()(Tensor(values.astype(np.float32), ms.float32))
    return gathered.asnumpy().astype(np.uint8).reshape(world_size, values.size)
