"""The mean of gradients and loss over the ranks: MindSpore's collectives, or shared memory between CPU ranks."""

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from mindspore import Parameter, Tensor, nn, ops

from src.backend import Backend
from src.collectives import gather
from src.control import settle
from src.errors import UserError
from src.ops import select
from src.ops.cpu.library import KernelLibrary
from src.ops.shared_mean import SharedMean

logger = logging.getLogger(__name__)

_SHARED_FOLDER = Path("/dev/shm")
_LOST_RANK = re.compile(r"rank \d+ \(process \d+\) has ended while rank \d+ waited for its gradients")  # shared_mean.cc
_FAILED_COLLECTIVE = re.compile(r"Launch kernel failed, name:\s*\S*(AllReduce|AllGather)")
_MACHINE = Path("/proc/sys/kernel/random/boot_id")  # differs between machines


def build_mean(parameters: Sequence[Parameter], backend: Backend) -> nn.Cell:
    """Return the cell (gradients, loss) -> their means over the ranks, the same on all of them.

    Gradients are a tuple, one for each of `parameters`; the loss is an fp32 scalar. All ranks have to call this.
    """
    if backend.world_size == 1:
        return OwnValues()
    library = select.kernels() if backend.device_target == "CPU" else None
    if _share_memory(backend, library):
        assert library is not None
        return MeanInSharedMemory(str(library.path))
    return MeanByCollectives(parameters, backend.world_size)


def lost_rank(error: RuntimeError) -> UserError | None:
    """Return what to tell the user if `error` says that a rank has ended while this one waited for it.

    It returns late then: whoever watches over the ranks is to speak first, and to end this process.
    """
    ended = _LOST_RANK.search(str(error))
    failed = _FAILED_COLLECTIVE.search(str(error))
    if ended is None and failed is None:
        return None
    settle()
    if ended is not None:
        return UserError(f"{ended[0]}; look at that rank's log, and continue with --resume RUN_DIR")
    assert failed is not None
    return UserError(f"MindSpore's {failed[1]} between the ranks failed: another rank ended, or the network between "
                     "their machines did; look at the logs of the other ranks, and continue with --resume RUN_DIR")


class OwnValues(nn.Cell):
    """One rank: gradients and loss as they are."""

    def construct(self, gradients: tuple[Tensor, ...], loss: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return gradients, loss


class MeanByCollectives(nn.Cell):
    """The mean by MindSpore's all-reduce; on Ascend and GPU it puts the gradients of many parameters into one."""

    def __init__(self, parameters: Sequence[Parameter], ranks: int):
        super().__init__(auto_prefix=False)
        self.reducer = nn.DistributedGradReducer(parameters, mean=True, degree=ranks)
        self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM)
        self.ranks = ranks

    def construct(self, gradients: tuple[Tensor, ...], loss: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        return self.reducer(gradients), self.all_reduce(loss.reshape(1)).reshape(()) / self.ranks


class MeanInSharedMemory(nn.Cell):
    """The mean by the CPU kernels, between ranks that share memory."""

    def __init__(self, library: str):
        super().__init__(auto_prefix=False)
        self.mean = SharedMean(library)

    def construct(self, gradients: tuple[Tensor, ...], loss: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        means = self.mean(*gradients, loss.reshape(1))
        return means[:-1], means[-1].reshape(())


def _share_memory(backend: Backend, library: KernelLibrary | None) -> bool:
    """Let the ranks share memory if they are on one machine and have the kernels; returns whether all do."""
    machine = _MACHINE.read_text().strip() if library is not None and _MACHINE.is_file() else None
    machines = gather(backend, machine)
    if library is None or None in machines or len(set(machines)) > 1:
        return False
    with _shared_file(library.shared_bytes(backend.world_size)) if backend.is_main else contextlib.nullcontext() as own:
        path = gather(backend, own)[0]
        problem = "rank 0 could not make a file" if path is None else ""
        try:
            if path is not None:
                library.share_memory(path, backend.rank, backend.world_size)
        except OSError as error:
            problem = str(error)
        problems = [f"rank {rank}: {text}" for rank, text in enumerate(gather(backend, problem)) if text]
    if problems:
        logger.warning("the ranks share no memory (%s), so gradients go through sockets, which is slower", problems[0])
    return not problems


@contextlib.contextmanager
def _shared_file(size: int) -> Iterator[str | None]:
    """Give the path of a file of zeros in memory, which has no name any more afterwards; None if it cannot be made."""
    try:
        file, path = tempfile.mkstemp(prefix="vnet-ranks-", dir=_SHARED_FOLDER)
    except OSError:
        yield None
        return
    try:
        try:
            os.posix_fallocate(file, 0, size)  # a file with holes ends whoever writes where the folder is full
        except OSError:
            yield None
        else:
            yield path
    finally:
        os.close(file)
        Path(path).unlink()
