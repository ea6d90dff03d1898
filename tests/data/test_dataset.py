"""Batch order is a pure function of (seed, epoch, rank); every case is seen."""

import dataclasses
import threading

import numpy as np
import pytest

from src.data.augment import augment
from src.data.data_manager import Sample
from src.data.dataset import BatchLoader
from src.data.geometry import Geometry

GRID = Geometry((4, 6, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))


def make_samples(count: int, shape=(4, 6, 2), label: bool = True) -> list[Sample]:
    rng = np.random.default_rng(0)
    return [Sample(case_id=f"Case{i:02d}", image=rng.normal(size=shape).astype(np.float32),
                   label=(np.full(shape, i % 2, np.uint8) if label else None), block=GRID, native=GRID,
                   cropped_foreground=0.0, foreground_ml=1.0)
            for i in range(count)]


@pytest.mark.parametrize(("count", "batch_size", "world_size", "steps"), [(7, 3, 1, 3), (8, 2, 2, 2), (5, 2, 2, 2),
                                                                          (1, 2, 3, 1)])
def test_epoch_covers_every_case_and_fills_the_last_batch(count, batch_size, world_size, steps):
    loaders = [BatchLoader(make_samples(count), batch_size, seed=1, rank=r, world_size=world_size)
               for r in range(world_size)]
    orders = np.stack([loader.order(0) for loader in loaders], axis=1)
    assert orders.shape == (steps, world_size, batch_size)
    assert set(orders.ravel()) == set(range(count))
    # Each case is drawn once before any is drawn again.
    assert sorted(orders.ravel()[:count]) == list(range(count))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize(("count", "batch_size"), [(12, 1), (13, 1), (11, 2), (24, 3), (40, 4), (3, 2)])
def test_shards_are_disjoint_and_cover_every_case(world_size, count, batch_size):
    samples = make_samples(count, shape=(1, 1, 1))
    shards = [BatchLoader(samples, batch_size, seed=7, rank=r, world_size=world_size).order(3)
              for r in range(world_size)]
    steps = -(-count // (world_size * batch_size))
    assert {shard.shape for shard in shards} == {(steps, batch_size)}
    # All steps but the last, and of that one the first cases, are drawn without repetition over all ranks ...
    drawn = np.stack(shards, axis=1).reshape(-1)
    assert sorted(drawn[:count]) == list(range(count))
    # ... and the last global batch is filled up with the epoch's first cases.
    assert np.array_equal(drawn[count:], np.resize(drawn[:count], drawn.size)[count:])


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_epoch_is_shuffled_anew_over_all_ranks(world_size):
    samples = make_samples(24, shape=(1, 1, 1))
    loaders = [BatchLoader(samples, 2, seed=7, rank=r, world_size=world_size) for r in range(world_size)]
    for loader in loaders:
        epochs = [set(loader.order(epoch).ravel()) for epoch in range(6)]
        if world_size > 1:
            assert any(epoch != epochs[0] for epoch in epochs)  # a rank does not keep its cases
        assert not np.array_equal(loader.order(0), loader.order(1))


def test_batches_of_all_ranks_name_the_cases_of_the_whole_step():
    samples = make_samples(9)
    loaders = [BatchLoader(samples, 2, seed=1, rank=r, world_size=2) for r in range(2)]
    for batches in zip(*(loader.epoch(4) for loader in loaders), strict=True):
        assert batches[0].case_ids == batches[1].case_ids
        for rank, batch in enumerate(batches):
            for image, case_id in zip(batch.image, batch.case_ids[2 * rank:2 * rank + 2], strict=True):
                assert np.array_equal(image[0], samples[int(case_id[4:])].image)


def test_ranks_share_what_one_rank_sees_with_a_larger_batch():
    samples = make_samples(12)
    one = BatchLoader(samples, 4, seed=3).order(5)
    two = [BatchLoader(samples, 2, seed=3, rank=r, world_size=2).order(5) for r in range(2)]
    assert np.array_equal(np.concatenate(two, axis=1), one)


def test_order_depends_on_seed_and_epoch_only():
    samples = make_samples(20)
    first = BatchLoader(samples, 4, seed=1)
    assert np.array_equal(first.order(2), BatchLoader(samples, 4, seed=1).order(2))
    assert not np.array_equal(first.order(2), first.order(3))
    assert not np.array_equal(first.order(2), BatchLoader(samples, 4, seed=2).order(2))


def test_batches_hold_the_samples_they_name():
    samples = make_samples(5)
    by_id = {sample.case_id: sample for sample in samples}
    batches = list(BatchLoader(samples, 2, seed=1).epoch(0))
    assert len(batches) == 3
    for batch in batches:
        assert batch.image.shape == (2, 1, 4, 6, 2)
        assert batch.image.dtype == batch.label.dtype == np.float32
        for image, label, case_id in zip(batch.image, batch.label, batch.case_ids, strict=True):
            assert np.array_equal(image[0], by_id[case_id].image)
            assert np.array_equal(label, by_id[case_id].label)


def test_augmented_batches_differ_from_plain_ones_and_repeat():
    samples = make_samples(4, shape=(12, 10, 8))

    def images(augmented, epoch=0):
        return np.concatenate([b.image for b in BatchLoader(samples, 2, 1, augmented=augmented).epoch(epoch)])

    assert np.array_equal(images(True), images(True))
    assert not np.array_equal(images(True), images(False))
    assert not np.array_equal(images(True), images(True, epoch=1))


def test_an_error_in_the_loader_thread_is_raised_and_the_thread_ends():
    with pytest.raises(ValueError, match="Case0.: no label"):
        list(BatchLoader(make_samples(2, label=False), 1, seed=1).epoch(0))
    epoch = BatchLoader(make_samples(6), 1, seed=1).epoch(0)
    next(epoch)
    epoch.close()  # leaving early must not leave the thread waiting for room in its queue
    assert not [t for t in threading.enumerate() if t.name == "batch-loader"]


def test_no_samples():
    with pytest.raises(ValueError, match="found none"):
        BatchLoader([], 1, seed=1)


def test_samples_are_augmented_with_their_own_spacing():
    grid = Geometry((12, 10, 8), (1.0, 1.0, 3.0))
    (sample,) = make_samples(1, shape=grid.size)
    (batch,) = BatchLoader([dataclasses.replace(sample, block=grid)], 1, seed=1, augmented=True).epoch(0)
    image, label = augment(sample.image, sample.label, np.random.default_rng([1, 0, 0, 1]), grid.spacing)
    assert np.array_equal(batch.image[0, 0], image) and np.array_equal(batch.label[0], label)
    assert not np.array_equal(image, augment(sample.image, sample.label, np.random.default_rng([1, 0, 0, 1]))[0])
