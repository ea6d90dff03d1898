"""One rank of a job: makes the network as training and prediction do, and times its iterations."""

import itertools
import json
import logging
import math
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from easydict import EasyDict
from mindspore import Tensor

from src.backend import Backend, base_learning_rate, create_backend, restore_interrupt, set_execution
from src.benchmark.plan import HALF, PRECISIONS, Job
from src.benchmark.run import ANSWER, JOB
from src.collectives import gather
from src.data import build_manager, get_task
from src.data.brain_tumour import MODALITIES
from src.data.check import checked_cases
from src.errors import UserError
from src.files import write_json
from src.inference.predictor import NetworkPredictor
from src.losses import build_loss
from src.networks import build_network
from src.ops.select import kernels, stock_kernels
from src.recipe_rules import is_2d
from src.training.build import build_loader
from src.training.pipeline import build_single_step
from src.training.train_step import mixed_precision

logger = logging.getLogger(__name__)

_BRAIN_SIZE = (240, 240, 155)  # voxels of the brain tumour data set, where the recipe keeps its size


def work(folder: Path) -> None:
    """Run one rank of the job in `folder` (see `run.JOB`) and write its answer there.

    Raises:
        UserError: it cannot be measured, for whatever reason; the traceback goes to the log.
    """
    job = Job(**json.loads((folder / JOB).read_text(encoding="utf-8")))
    try:
        answer = run_job(job)
    except UserError:
        raise
    except Exception as error:
        logger.exception("%s", job.name)
        first = next((line.strip() for line in str(error).splitlines() if line.strip(" -")), "no reason given")
        raise UserError(f"cannot run: {type(error).__name__}: {first}") from error
    write_json(folder / ANSWER.format(rank=answer["rank"]), answer)


def run_job(job: Job) -> dict[str, Any]:
    """Measure this rank's part of a job.

    Returns:
        rank; seconds of each timed iteration; cpu_seconds, those of the processor, all threads together; first_seconds
        of the first one of the warm-up, with compilation; peak_memory_mib of this process; parameters of the network;
        input_shape; cpu_kernels (whether the project's own compute); threads of each rank's kernels; notes; with train
        the losses of the timed steps (None: not finite) and skipped_steps, those without an update since the gradients
        overflowed.

    Raises:
        UserError: the device, precision or data is not there.
    """
    recipe = EasyDict(job.recipe)
    backend, notes = _make_backend(job, recipe)
    set_execution(job.device_target, job.mode == "eager", job.graph_kernels)
    # The project's kernels compute in fp32 and bf16 alone.
    on_stock = job.device_target == "CPU" and backend.amp_level in HALF
    with stock_kernels() if on_stock else nullcontext():
        library = kernels()
        shape = input_shape(recipe)
        ms.set_seed(recipe.seed)
        network = build_network(recipe, backend.rank, backend.world_size)
        batches = real_batches(job, recipe, backend) if job.data_path else random_batches(recipe, shape, backend.rank)
        make = train_iteration if job.phase == "train" else infer_iteration
        iteration = make(network, recipe, backend)
        seconds, processor, losses = _time(job, iteration, batches, backend)
    result = {
        "rank": backend.rank, "first_seconds": seconds[0], "seconds": seconds[job.warmup:],
        "cpu_seconds": processor[job.warmup:],
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": sum(parameter.size for parameter in network.trainable_params()), "input_shape": list(shape),
        "cpu_kernels": library is not None, "threads": library.threads if library is not None else None,
        "notes": notes}
    if job.phase == "train":
        timed = losses[job.warmup:]
        result |= {"losses": [loss if math.isfinite(loss) else None for loss, _ in timed],
                   "skipped_steps": sum(not applied for _, applied in timed)}
    return result


def input_shape(recipe: EasyDict) -> tuple[int, ...]:
    """The shape of a batch: (N, C, H, W) of a recipe for pictures, else (N, C, X, Y, Z)."""
    if is_2d(recipe):
        x, y = recipe.image_size
        return recipe.batch_size, get_task(recipe.task).CHANNELS, y, x
    if "target_size" in recipe:
        size = recipe.target_size if any(recipe.target_size) else _BRAIN_SIZE
        return recipe.batch_size * recipe.get("micro_batches", 1), MODALITIES, *size
    return recipe.batch_size, 1, *recipe.VolSize


def random_batches(recipe: EasyDict, shape: tuple[int, ...], rank: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the same batch for ever: normal numbers, and labels of all classes, drawn by seed and rank."""
    rng = np.random.default_rng([recipe.seed, rank])
    image = rng.standard_normal(shape, dtype=np.float32)
    label = rng.integers(0, recipe.get("classes", 2), (shape[0], *shape[2:])).astype(np.float32)
    return itertools.repeat((image, label))


def real_batches(job: Job, recipe: EasyDict, backend: Backend) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the batches that training would see, of all cases at the data path, epoch after epoch.

    Raises:
        UserError: there is no case.
        DataError: every problem of the cases.
    """
    manager, task = build_manager(recipe), get_task(recipe.task)
    cases = checked_cases(task, Path(job.data_path), task.all_names(Path(job.data_path)), manager)
    loader = build_loader(manager, cases, recipe, backend, pipelined=False)
    return ((batch.image, batch.label) for epoch in itertools.count(1) for batch in loader.epoch(epoch))


def train_iteration(network: Any, recipe: EasyDict,
                    backend: Backend) -> Callable[[np.ndarray, np.ndarray], tuple[float, bool]]:
    """Return a training step that has ended when it returns: loss, and whether the update was applied."""
    step = build_single_step(network, build_loss(recipe), recipe, backend)
    step.set_train()
    rate = Tensor(base_learning_rate(backend, recipe), ms.float32)
    # Reading a parameter that the update writes makes sure that the update has ended.
    written = min(network.trainable_params(), key=lambda parameter: parameter.size)

    def iterate(image: np.ndarray, label: np.ndarray) -> tuple[float, bool]:
        loss, applied, *_ = step(Tensor(image), Tensor(label), rate)
        written.asnumpy()
        return float(loss.asnumpy()), bool(applied.asnumpy())

    return iterate


def infer_iteration(network: Any, recipe: EasyDict,
                    backend: Backend) -> Callable[[np.ndarray, np.ndarray], tuple[float, bool]]:
    """Return a prediction, from a batch to its probability, both in memory of the host."""
    predictor = NetworkPredictor(mixed_precision(network, backend))

    def iterate(image: np.ndarray, label: np.ndarray) -> tuple[float, bool]:
        return float(predictor.predict_batch(image).mean()), True

    return iterate


def _make_backend(job: Job, recipe: EasyDict) -> tuple[Backend, list[str]]:
    level = PRECISIONS[job.precision]
    by_hand = job.device_target == "CPU" and level in HALF
    # Training refuses fp16 on CPU, since it gains nothing there; here that is what is to be seen.
    used = {**recipe, "amp_level": "O0"} if by_hand else recipe
    backend = create_backend(job.device_target, job.device_id, job.ranks > 1, job.ranks, used)
    if not by_hand:
        return backend, []
    scaling = "dynamic" if recipe.loss_scaling == "auto" else recipe.loss_scaling
    note = "fp16 on CPU: by MindSpore's operators, in place of the project's kernels; training refuses it"
    return replace(backend, amp_level=level, loss_scaling=scaling), [note]


def _time(job: Job, iteration: Callable[[np.ndarray, np.ndarray], tuple[float, bool]],
          batches: Iterator[tuple[np.ndarray, np.ndarray]],
          backend: Backend) -> tuple[list[float], list[float], list[Any]]:
    """Return seconds, seconds of the processor (all threads) and results of the warm-up's and the timed iterations.

    Ranks begin the timed ones together.
    """
    seconds, processor, results = [], [], []
    for number in range(job.warmup + job.iterations):
        if number == job.warmup:
            gather(backend, None)
        began, worked = time.perf_counter(), time.process_time()
        image, label = next(batches)  # with real data the wait for the next batch counts
        results.append(iteration(image, label))
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - worked)
        if number == 0:
            restore_interrupt()
            logger.info("first iteration: %.2f s (process %d)", seconds[0], os.getpid())
    return seconds, processor, results
