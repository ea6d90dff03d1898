"""Batches for training: order, patches and augmentation are pure functions of (seed, epoch), so that a resumed run sees
the same."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from src.data.augment import Augmentation
from src.data.augment_slices import SliceAugmentation
from src.data.case import Case
from src.data.data_manager import Sample
from src.data.patches import PatchSampler, foreground_voxels


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step.

    Attributes:
        image: (N, C, X, Y, Z) float32, or of pictures (N, C, H, W).
        label: (N, X, Y, Z) or (N, H, W) float32 of class numbers.
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
    every case is seen, and all batches have one size. With several patches of a case, an epoch goes through the cases
    as often, each time in another order. With weights, an epoch draws as many samples as there are by them, with
    replacement.

    The last batch of an epoch trains while the first one of the next epoch is made; not of streamed samples, of which
    none is read that may not be needed.

    Args:
        samples: all training samples, in memory or streamed from disk; the same on every rank.
        batch_size: samples a rank and step.
        seed: of order and augmentation.
        rank, world_size: this process's place.
        augmentation: of each sample; None for none.
        patches: how patches are cut out of the samples, which are whole volumes then; None takes samples as they are.
        weights: the samples' probabilities, (samples,) with a sum of 1; None draws each once an epoch.

    Raises:
        ValueError: no samples, a sample without label, or not as many weights as samples.
    """

    def __init__(self, samples: Sequence[Sample] | StreamedSamples, batch_size: int, seed: int, rank: int = 0,
                 world_size: int = 1, augmentation: Augmentation | SliceAugmentation | None = None,
                 patches: PatchSampler | None = None, weights: np.ndarray | None = None):
        if not samples:
            raise ValueError("training samples: found none, expected at least one")
        if weights is not None and len(weights) != len(samples):
            raise ValueError(f"{len(weights)} weights for {len(samples)} samples")
        self.samples = samples
        self.case_ids = samples.case_ids if isinstance(samples, StreamedSamples) else [s.case_id for s in samples]
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.augmentation = augmentation
        self.patches = patches
        self.weights = weights
        self._foreground: dict[int, list[np.ndarray]] = {}
        self._ahead: tuple[int, Future[Batch]] | None = None  # an epoch and its first batch
        self._executor: ThreadPoolExecutor | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps an epoch takes on every rank."""
        return -(-len(self.samples) * self._rounds // (self.batch_size * self.world_size))

    @property
    def _rounds(self) -> int:
        """How often an epoch goes through the cases."""
        return self.patches.per_case if self.patches else 1

    def order(self, epoch: int) -> np.ndarray:
        """Return this rank's sample indices of an epoch, (steps, batch_size)."""
        return self.global_order(epoch)[:, self.rank]

    def global_order(self, epoch: int) -> np.ndarray:
        """Return the sample indices of an epoch, (steps, world_size, batch_size)."""
        rng = np.random.default_rng([self.seed, epoch])
        count = len(self.samples)
        draws = [rng.permutation(count) if self.weights is None else rng.choice(count, count, p=self.weights)
                 for _ in range(self._rounds)]
        filled = np.resize(np.concatenate(draws), self.steps_per_epoch * self.world_size * self.batch_size)
        return filled.reshape(self.steps_per_epoch, self.world_size, self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the epoch's batches; one batch is prepared ahead in a thread, and its errors are raised here."""
        order = self.global_order(epoch)
        complete = False
        try:
            known, pending = self._ahead or (None, None)
            self._ahead = None
            if pending is not None and known != epoch:
                pending.cancel()
                pending = None
            if pending is None:
                pending = self._submit(epoch, 0, order)
            for step in range(len(order)):
                batch = pending.result()
                if step + 1 < len(order):
                    pending = self._submit(epoch, step + 1, order)
                elif not isinstance(self.samples, StreamedSamples):
                    self._ahead = epoch + 1, self._submit(epoch + 1, 0, self.global_order(epoch + 1))
                yield batch
            complete = True
        finally:
            if not complete:
                self.close()

    def _submit(self, epoch: int, step: int, order: np.ndarray) -> Future[Batch]:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="batch-loader")
        return self._executor.submit(self._make, epoch, step, order[step])

    def close(self) -> None:
        """End the thread; what it was told to prepare is dropped. A next epoch starts another."""
        self._ahead = None
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None

    def _make(self, epoch: int, step: int, indices: np.ndarray) -> Batch:
        images, labels = [], []
        for place, index in enumerate(indices[self.rank]):
            # The place in the global batch is part of the seed: it does not depend on how ranks share the batch.
            position = (step * self.world_size + self.rank) * self.batch_size + place
            image, label = self._make_sample(int(index), np.random.default_rng([self.seed, epoch, position, 1]))
            images.append(image[np.newaxis] if image.ndim == label.ndim else image)
            labels.append(label)
        return Batch(np.stack(images).astype(np.float32, copy=False), np.stack(labels).astype(np.float32),
                     tuple(self.case_ids[index] for index in indices.ravel()))

    def _make_sample(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return one sample's image and label, as they are, or a patch of them, augmented or not."""
        sample = self.samples[index]
        image, label = sample.image, sample.label
        if label is None:
            raise ValueError(f"case {sample.case_id}: no label, and training needs one")
        window = None
        if self.patches is not None:
            if index not in self._foreground:
                self._foreground[index] = foreground_voxels(label)
            window = self.patches.place(label.shape, self._foreground[index], rng)
        if self.augmentation is not None:
            other = None
            if self.augmentation.histogram and len(self.samples) > 1:
                other = self.samples[(index + rng.integers(1, len(self.samples))) % len(self.samples)].image
            return self.augmentation(image, label, rng, sample.block.spacing, other, window)
        return (image, label) if window is None else (image[window], label[window])
