"""What a pipeline needs before it starts: its ranks, its split, its connection; and a callback that keeps both ranks
informed."""

import json
import logging
import os
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn

from src.backend import Backend
from src.collectives import gather
from src.data.data_manager import Sample
from src.errors import UserError
from src.files import write_json
from src.networks.unet3d import UNet3d
from src.training.pipeline import MicroBatchStep, check_micro_batches
from src.training.pipeline_balance import BlockTimes, measure_blocks
from src.training.pipeline_channel import open_channel
from src.training.trainer import Callback, EpochSummary, Trainer

logger = logging.getLogger(__name__)

RANKS = 2
SPLIT_NAME = "pipeline.json"


def is_pipeline(recipe: Mapping[str, Any], backend: Backend) -> bool:
    """Return whether the run's ranks share the network, in place of the cases.

    Raises:
        UserError: the recipe asks for a pipeline, and there are more than two ranks, or they are on GPUs.
    """
    if recipe.get("parallel") != "pipeline" or backend.world_size == 1:
        return False
    if backend.world_size != RANKS:
        raise UserError(f"parallel=pipeline: found {backend.world_size} ranks, expected {RANKS}; start two "
                        "(--device_num 2), or let the ranks share the cases with --set parallel=data")
    if backend.device_target == "GPU":
        raise UserError("parallel=pipeline on GPU: point-to-point operators are for Ascend and CPU alone; "
                        "let the ranks share the cases with --set parallel=data, or train on one device")
    return True


def build_pipeline_step(network: UNet3d, loss: nn.Cell, recipe: Mapping[str, Any], backend: Backend, run_dir: Path,
                        load: Callable[[], Sample], resumed: bool = False) -> MicroBatchStep:
    """Return this rank's half of the network, connected to the other's; both ranks have to call it.

    The split is `pipeline_split`, or with `auto` that of a resumed run's `pipeline.json`; where there is none, the
    blocks are measured on the first case, and the file is written.

    Args:
        load: reads the first training case, with image and label.
        resumed: whether the run goes on from an earlier start.

    Raises:
        UserError: half precision, the ranks cannot be connected, or `pipeline.json` is damaged.
    """
    check_micro_batches(recipe, backend)
    split = _split(network, loss, recipe, backend, run_dir / SPLIT_NAME, load, resumed)
    if recipe["micro_batches"] == 1:
        logger.warning("a pipeline with micro_batches=1: each rank waits while the other works; --set micro_batches=8 "
                       "keeps both busy (a step is then one of 8 volumes)")
    return MicroBatchStep(network, loss, recipe, backend.rank, split, open_channel(backend))


def _split(network: UNet3d, loss: nn.Cell, recipe: Mapping[str, Any], backend: Backend, path: Path,
           load: Callable[[], Sample], resumed: bool) -> int:
    if recipe["pipeline_split"] != "auto":
        return int(recipe["pipeline_split"])
    reading = backend.is_main and resumed and path.is_file()  # without a run around it the file is another run's
    saved = gather(backend, path.read_text(encoding="utf-8") if reading else None)[0]
    if saved is not None:
        return _saved_split(saved, path, len(network.blocks()))
    sample = load()
    assert sample.label is not None
    image = np.repeat(sample.image[np.newaxis], recipe["batch_size"], axis=0)
    label = np.repeat(sample.label[np.newaxis], recipe["batch_size"], axis=0).astype(np.float32)
    network.set_train(True)
    # Both ranks measure at once, so that what they take from each other counts as it will in training.
    times = BlockTimes.fastest(gather(backend, measure_blocks(network, loss, image, label)))
    split = times.best_split()
    seconds = times.stages(split)
    logger.info("pipeline split: %d of %d blocks on rank 0; by the blocks' times a micro-batch takes %.3f s there and "
                "%.3f s on rank 1", split, len(times.forward), *seconds)
    if backend.is_main:
        write_json(path, {"split": split, "stage_seconds": seconds, "forward_seconds": times.forward,
                          "forward_and_backward_seconds": times.backward})
    return split


def _saved_split(text: str, path: Path, blocks: int) -> int:
    try:
        split = json.loads(text)["split"]
        if isinstance(split, int) and 0 < split < blocks:
            return split
    except (ValueError, KeyError, TypeError):
        split = text[:40]
    raise UserError(f"{path}: found {split!r}, expected a split from 1 to {blocks - 1} as a run writes it; remove the "
                    "file, and the blocks are measured again")


class Exchange(Callback):
    """Lets both ranks know the whole network after each epoch, before anything validates or saves; logs their work."""

    def __init__(self, step: MicroBatchStep, backend: Backend):
        self.step = step
        self.rank = backend.rank
        self.on_cpu = backend.device_target == "CPU"
        self.sent = 0

    def on_epoch_end(self, trainer: Trainer, summary: EpochSummary) -> None:
        times, channel = self.step.times, self.step.channel
        assert channel is not None
        megabytes = (channel.bytes_sent - self.sent) / 1e6
        self.sent = channel.bytes_sent
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        # Elsewhere a graph's results are there later than MindSpore hands them out, so that its time says nothing.
        busy = f"busy {100 * times.busy / times.seconds:.0f} % of the time in steps, " if self.on_cpu else ""
        logger.info("epoch: %d pipeline rank %d: %s%.1f MB sent a step, at most %.2f GiB of memory, process %d",
                    summary.epoch, self.rank, busy, megabytes / max(summary.steps, 1), memory, os.getpid())
        self.step.exchange()

    def on_train_end(self, trainer: Trainer) -> None:
        assert self.step.channel is not None
        self.step.channel.close()
