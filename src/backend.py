"""Device, precision and ranks: the only module that touches MindSpore's context.

Ascend and GPU paths are written against the documented API and were not run here: no such device was at hand.
"""

import atexit
import functools
import logging
import os
import signal
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import communication

from src import ranks
from src.control import Control, meet
from src.errors import UserError, has_failed
from src.ops.select import use_cpu_kernels

logger = logging.getLogger(__name__)

_INTERRUPT_HANDLER = signal.getsignal(signal.SIGINT)

_LATE_SECONDS = 7 * 24 * 3600

DEVICE_TARGETS = ("Ascend", "GPU", "CPU")

# fp16 runs on CPU but gains nothing, so a recipe that asks for it was meant for another device.
_PRECISIONS = {"CPU": ("O0", "bf16"), "GPU": ("O0", "O2", "O3"), "Ascend": ("O0", "O2", "O3", "bf16")}

_INSTALL_HINT = {
    "Ascend": "install the CANN toolkit and its driver, source its set_env.sh, and check `npu-smi info`",
    "GPU": "official GPU builds ended with MindSpore 2.2: build it from source with CUDA, and check `nvidia-smi`",
}


@dataclass(frozen=True)
class Backend:
    """Where and how a run computes.

    Attributes:
        device_target: Ascend, GPU or CPU.
        rank: this process's number, 0 to `world_size` - 1; only rank 0 writes.
        world_size: number of processes that train together.
        amp_level: O0 (fp32), O2 or O3 (fp16), bf16 (on Ascend as O2; on CPU the kernels store activations in bf16).
        loss_scaling: off, fixed or dynamic.
        control: this rank's connections to the others, where there are others and the launcher says where they meet.
    """

    device_target: str
    device_id: int = 0
    rank: int = 0
    world_size: int = 1
    amp_level: str = "O0"
    loss_scaling: str = "off"
    control: Control | None = field(default=None, compare=False, repr=False)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def describe(self) -> dict[str, Any]:
        """Return what a report says about the machine: device, ranks, precision, versions."""
        return {"device_target": self.device_target, "world_size": self.world_size, "amp_level": self.amp_level,
                "mindspore": ms.__version__, "cpu_count": os.cpu_count()}


def create_backend(device_target: str = "CPU", device_id: int = 0, distribute: bool = False, device_num: int = 1,
                   recipe: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None) -> Backend:
    """Set MindSpore's device, mode and ranks, once, before any kernel runs.

    Args:
        device_target: one of `DEVICE_TARGETS`.
        device_id: the card; without meaning on CPU.
        distribute: join the other ranks (started by msrun, mpirun or with an HCCL rank table).
        device_num: number of ranks that the caller expects when `distribute` is set.
        recipe: its `amp_level`, `loss_scaling` and `seed` take effect; fp32 without one.
        settings: what else has to be the same on all ranks, by name; recipe, device and code have to be as well.

    Raises:
        UserError: the device is not there, the ranks cannot be joined, or they differ.
    """
    recipe = recipe or {"amp_level": "O0", "loss_scaling": "off", "seed": 1}
    ms.set_context(mode=ms.GRAPH_MODE)
    _set_device(device_target, _rank_device(device_id) if distribute else device_id)
    ms.set_seed(recipe["seed"])
    rank, world_size, control = 0, 1, None
    if distribute:
        rank, world_size, control = _join_ranks(device_num, {
            **recipe, **(settings or {}), "device_target": device_target, "code": _code_in_use()})
    amp_level, loss_scaling = _resolve_precision(device_target, recipe)
    if device_target == "CPU" and not _share_cores(world_size) and amp_level == "bf16":
        logger.warning("amp_level bf16 needs the CPU kernels: computing in fp32")
        amp_level = "O0"
    return Backend(device_target, device_id, rank, world_size, amp_level, loss_scaling, control)


def set_execution(device_target: str, eager: bool = False, graph_kernels: bool = False) -> None:
    """Choose how networks run from now on, in place of graphs as `create_backend` sets them: for measurements.

    Args:
        device_target: of the back end.
        eager: operator by operator (PYNATIVE_MODE).
        graph_kernels: fuse operators of a graph into kernels (`jit_level` O1, on Ascend and GPU; not run here).

    Raises:
        UserError: graph kernels on CPU, where MindSpore has none, or without graphs.
    """
    if graph_kernels and (device_target == "CPU" or eager):
        raise UserError(f"graph kernels fuse the operators of graphs on Ascend and GPU: found {device_target}, "
                        f"{'eager' if eager else 'graph'} mode; leave out --graph_kernels")
    ms.set_context(mode=ms.PYNATIVE_MODE if eager else ms.GRAPH_MODE)
    if graph_kernels:
        ms.set_context(jit_config={"jit_level": "O1"})


def restore_interrupt() -> None:
    """Give Ctrl-C its meaning back: MindSpore's first run installs a handler that ends the process without a word.

    What was there at start is put back, so a run in the background that ignored SIGINT goes on ignoring it.
    """
    if _INTERRUPT_HANDLER is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _INTERRUPT_HANDLER)


def base_learning_rate(backend: Backend, recipe: Mapping[str, Any]) -> float:
    """Return the recipe's base rate for the device: `lr_ascend` on Ascend, `lr` elsewhere."""
    return recipe["lr_ascend"] if backend.device_target == "Ascend" else recipe["lr"]


def _rank_device(device_id: int) -> int | None:
    """Return the card of this rank, by how it was started: mpirun, msrun, or with an HCCL rank table."""
    if (local_rank := os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK")) is not None:
        return int(local_rank)  # the place among the cards of CUDA_VISIBLE_DEVICES
    if "MS_ROLE" in os.environ:
        return None  # set by msrun, under which MindSpore's ranks share out the cards themselves
    return device_id


def _share_cores(world_size: int) -> bool:
    """Give the cores to the CPU kernels, theirs is nearly all the work; returns whether they are in use.

    A thread a core, shared among the ranks of this machine, unless OMP_NUM_THREADS says otherwise.
    """
    cores = len(os.sched_getaffinity(0))
    # A launcher that binds its ranks has shared out the cores already.
    bound = world_size > 1 and cores < len(os.sched_getaffinity(os.getppid()))
    sharing = 1 if bound else ranks.local_world_size(world_size, os.environ)
    threads = os.environ.get("OMP_NUM_THREADS", "")
    in_use = use_cpu_kernels(int(threads) if threads.isdigit() and int(threads) > 0 else max(1, cores // sharing))
    if in_use:
        _quiet_mindspore()
    return in_use


@functools.cache  # MindSpore refuses to be told a second time
def _quiet_mindspore() -> None:
    """Leave one thread to MindSpore: its threads spin while they wait, on the cores that the kernels' threads need."""
    ms.set_context(runtime_num_threads=1)
    ms.device_context.cpu.op_tuning.threads_num(1)


def _set_device(device_target: str, device_id: int | None) -> None:
    if device_target not in DEVICE_TARGETS:
        raise UserError(f"unknown device target {device_target!r}: expected one of {', '.join(DEVICE_TARGETS)}")
    found = [target for target in DEVICE_TARGETS if ms.hal.is_available(target)]
    if device_target not in found:  # set_device would first log the libraries that it misses
        raise UserError(f"device target {device_target} is not available: found MindSpore {ms.__version__} with "
                        f"{' and '.join(found)} only; {_INSTALL_HINT[device_target]}, or use --device_target CPU")
    if device_id is not None and device_id < 0:
        raise UserError(f"--device_id {device_id}: expected 0 or more")
    try:
        ms.set_device(device_target, device_id)
    except (RuntimeError, ValueError) as error:
        if device_target == "CPU":
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"device {device_id} of {device_target} cannot be used ({reason}); check --device_id; "
                        f"{_INSTALL_HINT[device_target]}, or use --device_target CPU") from error


def _join_ranks(device_num: int, settings: Mapping[str, Any]) -> tuple[int, int, Control | None]:
    control = _find_ranks(device_num, settings)
    if control is not None:
        # Before MindSpore's own way out, which may wait for a rank that is gone.
        atexit.register(lambda: control.leave(has_failed()))
    try:
        communication.init()
        rank, world_size = communication.get_rank(), communication.get_group_size()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"joining the other ranks failed ({reason}); start through scripts/train_distribute*.sh, "
                        "or with --run_distribute 0 for one process") from error
    _check_number(device_num, world_size)
    ms.set_auto_parallel_context(parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True,
                                 device_num=world_size)
    return rank, world_size, control


def _find_ranks(device_num: int, settings: Mapping[str, Any]) -> Control | None:
    """Meet the other ranks, and start the scheduler that mpirun does not know of; None where others see to that."""
    environ = os.environ
    if ranks.JOB in environ:
        ranks.end_with_parent()
    by_mpirun = ranks.adopt_mpirun(environ)
    if "MS_ROLE" not in environ and not {"RANK_TABLE_FILE", "MINDSPORE_HCCL_CONFIG_PATH"} & environ.keys():
        raise UserError("no launcher started this process, so there are no ranks to join; start through "
                        "scripts/train_distribute*.sh, msrun or mpirun, or with --run_distribute 0 for one process")
    rank = ranks.rank_of(environ)
    if environ.get("MS_ROLE") != "MS_WORKER" or rank is None:
        return None  # the scheduler; or ranks that HCCL or MindSpore number and wait for
    world_size, host, port = int(environ["MS_WORKER_NUM"]), environ["MS_SCHED_HOST"], int(environ["MS_SCHED_PORT"])
    _check_number(device_num, world_size)
    if by_mpirun and rank == 0:
        ranks.check_port(host, port)
        ranks.start_scheduler("from src.backend import serve; serve()", environ)
    # How late a rank may come to one of MindSpore's collectives on CPU (30 s by itself). One that is gone is noticed by
    # our own connections, at once; one that computes or loads longer is waited for.
    environ["MS_NODE_TIMEOUT"] = str(_LATE_SECONDS)
    return meet(host, port + 1, rank, world_size, ranks.join_seconds(environ), settings)


def _code_in_use() -> str:
    """Return what tells this program, and the MindSpore below it, from another one."""
    source = Path(__file__).parent
    checksum = 0
    for path in sorted(path for path in source.rglob("*") if path.suffix in (".py", ".cc", ".h")):
        checksum = zlib.crc32(path.read_bytes(), zlib.crc32(str(path.relative_to(source)).encode(), checksum))
    return f"{checksum:08x} with MindSpore {ms.__version__}"


def _check_number(device_num: int, world_size: int) -> None:
    if world_size != device_num:
        raise UserError(f"--device_num says {device_num} ranks, the launcher started {world_size}; make them equal")


def serve() -> None:
    """Be the scheduler of a job: return, or exit, when its ranks have left."""
    ranks.end_with_parent()
    ms.set_device("CPU")
    communication.init()


def _resolve_precision(device_target: str, recipe: Mapping[str, Any]) -> tuple[str, str]:
    amp_level = recipe["amp_level"]
    if amp_level == "auto":
        amp_level = "O0" if device_target == "CPU" else "O2"
    allowed = _PRECISIONS[device_target]
    if amp_level not in allowed:
        raise UserError(f"recipe key 'amp_level': found {amp_level!r}, expected on {device_target} auto or one of "
                        f"{', '.join(allowed)}")
    loss_scaling = recipe["loss_scaling"]
    if loss_scaling == "auto":
        # bf16 has the range of fp32: nothing underflows that would not in fp32.
        loss_scaling = "dynamic" if amp_level in ("O2", "O3") else "off"
    return amp_level, loss_scaling
