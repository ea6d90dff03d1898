"""Batches for training: order and augmentation are pure functions of (seed, epoch), so a resumed run sees the same."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from src.data.augment import augment
from src.data.case import Case
from src.data.data_manager import Sample


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step.

    Attributes:
        image: (N, C, X, Y, Z) float32.
        label: (N, X, Y, Z) float32 with 0 and 1.
        case_ids: the cases of the whole step, on all ranks, for messages: all ranks see the same loss and gradients.
    """

    image: np.ndarray
    label: np.ndarray
    case_ids: tuple[str, ...]


class StreamedSamples:
    """Samples that are read from disk each time they are asked for, so that no more than a batch is in memory.

    Args:
        cases: in order.
        load: reads one of them.
    """

    def __init__(self, cases: Sequence[Case], load: Callable[[Case], Sample]):
        self.cases = list(cases)
        self.load = load
        self.case_ids = [case.case_id for case in self.cases]

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Sample:
        return self.load(self.cases[index])


class BatchLoader:
    """Shuffled batches of preprocessed samples, the next one made while the current one trains.

    Every rank draws the same permutation and takes its own part of each global batch, so that W ranks with batch N
    train as one with batch W * N. An epoch's last global batch is filled up from the start of its permutation:
    every case is seen, and all batches have one size.

    Args:
        samples: all training samples, in memory or streamed from disk; the same on every rank.
        batch_size: samples a rank and step.
        seed: of order and augmentation.
        rank, world_size: this process's place.
        augmented: whether to augment.

    Raises:
        ValueError: no samples, or a sample without label.
    """

    def __init__(self, samples: Sequence[Sample] | StreamedSamples, batch_size: int, seed: int, rank: int = 0,
                 world_size: int = 1, augmented: bool = False):
        if not samples:
            raise ValueError("training samples: found none, expected at least one")
        self.samples = samples
        self.case_ids = samples.case_ids if isinstance(samples, StreamedSamples) else [s.case_id for s in samples]
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.augmented = augmented

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps an epoch takes on every rank."""
        return -(-len(self.samples) // (self.batch_size * self.world_size))

    def order(self, epoch: int) -> np.ndarray:
        """Return this rank's sample indices of an epoch, (steps, batch_size)."""
        return self.global_order(epoch)[:, self.rank]

    def global_order(self, epoch: int) -> np.ndarray:
        """Return the sample indices of an epoch, (steps, world_size, batch_size)."""
        permutation = np.random.default_rng([self.seed, epoch]).permutation(len(self.samples))
        filled = np.resize(permutation, self.steps_per_epoch * self.world_size * self.batch_size)
        return filled.reshape(self.steps_per_epoch, self.world_size, self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the epoch's batches; one batch is prepared ahead in a thread, and its errors are raised here."""
        ready: queue.Queue = queue.Queue(maxsize=1)
        stop = threading.Event()

        def put(item: Batch | BaseException | None) -> None:
            while not stop.is_set():
                with contextlib.suppress(queue.Full):
                    ready.put(item, timeout=0.1)
                    return

        def produce() -> None:
            try:
                for step, indices in enumerate(self.global_order(epoch)):
                    put(self._make(epoch, step, indices))
                put(None)
            except BaseException as error:
                put(error)

        thread = threading.Thread(target=produce, name="batch-loader", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join()

    def _make(self, epoch: int, step: int, indices: np.ndarray) -> Batch:
        images, labels = [], []
        for place, index in enumerate(indices[self.rank]):
            sample = self.samples[index]
            image, label = sample.image, sample.label
            if label is None:
                raise ValueError(f"case {sample.case_id}: no label, and training needs one")
            if self.augmented:
                # The place in the global batch is part of the seed: it does not depend on how ranks share the batch.
                position = (step * self.world_size + self.rank) * self.batch_size + place
                rng = np.random.default_rng([self.seed, epoch, position, 1])
                image, label = augment(image, label, rng, sample.block.spacing)
            images.append(image if image.ndim == 4 else image[np.newaxis])
            labels.append(label)
        return Batch(np.stack(images).astype(np.float32, copy=False), np.stack(labels).astype(np.float32),
                     tuple(self.case_ids[index] for index in indices.ravel()))
