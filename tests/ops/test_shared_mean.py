"""The mean over ranks in shared memory, with ranks that are processes of the test."""

import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from src.ops.cpu.library import KernelLibrary

PIECE = 64 * 1024  # floats, in shared_mean.cc
SHAPES = [(3,), (PIECE - 2,), (2, 2), (3 * PIECE + 5,), (1,)]


def tensors(rank: int, turn: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng([rank, turn])
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]


def mean_over_ranks(library: KernelLibrary, inputs: list[np.ndarray]) -> list[np.ndarray]:
    outputs = [np.full_like(array, np.nan) for array in inputs]
    library.call("MeanOverRanks", inputs, outputs)
    return outputs


@pytest.fixture
def shared_file(library, tmp_path) -> Callable[[int], str]:
    def make(ranks: int) -> str:
        path = tmp_path / "shared"
        path.write_bytes(bytes(library.shared_bytes(ranks)))
        return str(path)

    return make


def start(work: Callable[[], None]) -> int:
    """Run `work` in a process of its own; its exit code is 0 if nothing was raised."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended_well(pid: int, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status == 0
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_all_ranks_get_the_same_mean(library, shared_file, tmp_path, ranks):
    path, turns = shared_file(ranks), 20

    def work(rank: int) -> None:
        library.share_memory(path, rank, ranks)
        for turn in range(turns):
            if (turn + rank) % 7 == 0:
                time.sleep(0.02)  # ranks are not always equally fast
            means = mean_over_ranks(library, tensors(rank, turn))
            np.savez(tmp_path / f"{rank}-{turn}.npz", *means)

    pids = [start(lambda rank=rank: work(rank)) for rank in range(ranks)]
    assert [ended_well(pid) for pid in pids] == [True] * len(pids)
    for turn in range(turns):
        expected = [np.mean(parts, axis=0, dtype=np.float64) for parts in zip(*(
            tensors(rank, turn) for rank in range(ranks)), strict=True)]
        found = [list(np.load(tmp_path / f"{rank}-{turn}.npz").values()) for rank in range(ranks)]
        for tensor, values in enumerate(expected):
            np.testing.assert_allclose(found[0][tensor], values, rtol=1e-5, atol=1e-6)
            for rank in range(1, ranks):
                assert np.array_equal(found[rank][tensor], found[0][tensor])


def test_not_a_number_and_infinity_reach_all_ranks(library, shared_file, tmp_path):
    path = shared_file(2)

    def work(rank: int) -> None:
        library.share_memory(path, rank, 2)
        values = np.array([1.0, np.nan, 1.0, np.inf] if rank else [3.0, 1.0, np.inf, -np.inf], np.float32)
        np.save(tmp_path / f"{rank}.npy", mean_over_ranks(library, [values, values])[0])

    pids = [start(lambda rank=rank: work(rank)) for rank in range(2)]
    assert [ended_well(pid) for pid in pids] == [True] * len(pids)
    for rank in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"{rank}.npy"), [2.0, np.nan, np.inf, np.nan])


def test_a_rank_that_waits_for_a_dead_one_says_so(library, shared_file, tmp_path):
    path = shared_file(2)

    def ends() -> None:
        library.share_memory(path, 1, 2)

    def waits() -> None:
        library.share_memory(path, 0, 2)
        try:
            mean_over_ranks(library, tensors(0))
        except RuntimeError as error:
            (tmp_path / "error").write_text(str(error))

    dead = start(ends)
    waiting = start(waits)
    assert ended_well(dead)  # and is gone for good, so that its number means nothing any more
    assert ended_well(waiting)
    assert f"rank 1 (process {dead}) has ended while rank 0 waited" in (tmp_path / "error").read_text()


def test_what_does_not_fit_is_refused(library, shared_file, tmp_path):
    with pytest.raises(OSError, match="No such file"):
        library.share_memory(str(tmp_path / "nowhere"), 0, 2)
    path = Path(shared_file(2))

    def work() -> None:
        with pytest.raises(RuntimeError, match="have not met"):
            mean_over_ranks(library, tensors(0))
        library.share_memory(str(path), 0, 2)
        with pytest.raises(RuntimeError, match="same sizes"):
            library.call("MeanOverRanks", tensors(0), [np.zeros(2, np.float32) for _ in SHAPES])

    assert ended_well(start(work))
