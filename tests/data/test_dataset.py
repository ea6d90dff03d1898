"""Batch order is a pure function of (seed, epoch, rank); every case is seen."""

import dataclasses
import queue
import threading
from pathlib import Path

import numpy as np
import pytest

from src.data.augment import Augmentation
from src.data.augment_slices import SliceAugmentation
from src.data.case import Case
from src.data.data_manager import Sample
from src.data.dataset import BatchLoader, StreamedSamples
from src.data.geometry import Geometry
from src.data.patches import PatchSampler, foreground_voxels

AUGMENTATION = Augmentation(rotate=0.5, shift=1, mirror=0.5, noise=0.5, gamma=0.5, mirror_axes=(0,))
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

    def images(augmentation, epoch=0):
        return np.concatenate([b.image for b in BatchLoader(samples, 2, 1, augmentation=augmentation).epoch(epoch)])

    assert np.array_equal(images(AUGMENTATION), images(AUGMENTATION))
    assert not np.array_equal(images(AUGMENTATION), images(None))
    assert not np.array_equal(images(AUGMENTATION), images(AUGMENTATION, epoch=1))


def test_ranks_augment_and_cut_as_one_rank_with_a_larger_batch():
    samples = make_samples(5, shape=(12, 10, 8))
    settings = {"augmentation": dataclasses.replace(AUGMENTATION, histogram=0.5, deform=0.5),
                "patches": PatchSampler((6, 4, 4), 0.5, per_case=3)}
    one = list(BatchLoader(samples, 4, seed=3, **settings).epoch(2))
    two = [list(BatchLoader(samples, 2, seed=3, rank=r, world_size=2, **settings).epoch(2)) for r in range(2)]
    assert len(one) == 4  # 5 cases x 3 patches, in fours
    for whole, *parts in zip(one, *two, strict=True):
        assert whole.image.shape == (4, 1, 6, 4, 4)
        assert np.array_equal(np.concatenate([part.image for part in parts]), whole.image)
        assert np.array_equal(np.concatenate([part.label for part in parts]), whole.label)
        assert all(part.case_ids == whole.case_ids for part in parts)


def test_every_case_gives_its_patches_in_each_epoch():
    samples = make_samples(5)
    loader = BatchLoader(samples, 3, seed=1, patches=PatchSampler((2, 2, 2), per_case=4))
    assert loader.steps_per_epoch == 7
    drawn = loader.order(0).ravel()
    for begin in range(0, 20, 5):  # all cases before any is drawn again
        assert sorted(drawn[begin:begin + 5]) == list(range(5))
    assert np.array_equal(drawn[20:], drawn[:1])
    assert len({tuple(drawn[begin:begin + 5]) for begin in range(0, 20, 5)}) > 1


def test_patches_are_those_the_sampler_places():
    sampler = PatchSampler((3, 2, 2), 0.5)
    samples = [dataclasses.replace(sample, label=np.zeros((9, 8, 5), np.uint8))
               for sample in make_samples(3, shape=(9, 8, 5))]
    for number, sample in enumerate(samples):
        sample.label[number, 3:5, 2] = number
    for position, batch in enumerate(BatchLoader(samples, 1, seed=5, patches=sampler).epoch(2)):
        sample = samples[int(batch.case_ids[0][4:])]
        window = sampler.place((9, 8, 5), foreground_voxels(sample.label), np.random.default_rng([5, 2, position, 1]))
        assert np.array_equal(batch.image[0, 0], sample.image[window])
        assert np.array_equal(batch.label[0], sample.label[window]) and batch.label.dtype == np.float32


def test_augmented_patches_hold_data_from_around_them():
    """Volumes of ones within a border of zeros: patches in the middle never see the border, whatever the shift."""
    samples = make_samples(2, shape=(40, 40, 40))
    for sample in samples:
        sample.image[:] = 0
        sample.image[4:36, 4:36, 4:36] = 1
        sample.label[:] = 0
        sample.label[20, 20, 20] = 1
    loader = BatchLoader(samples, 1, seed=1, augmentation=Augmentation(rotate=1, shift=1),
                         patches=PatchSampler((8, 8, 8), 1.0, per_case=10))
    assert all(np.allclose(batch.image, 1) for batch in loader.epoch(0))


def test_another_case_gives_the_histogram():
    """Two cases, of intensities to 1 and to 100: matched, they change places."""
    samples = make_samples(2, shape=(12, 10, 8))
    ramp = np.linspace(0, 1, 960, dtype=np.float32).reshape(12, 10, 8)
    samples = [dataclasses.replace(sample, image=ramp * scale) for sample, scale in zip(samples, (1, 100), strict=True)]
    for batch in BatchLoader(samples, 1, seed=1, augmentation=Augmentation(histogram=1)).epoch(0):
        expected = {"Case00": 100, "Case01": 1}[batch.case_ids[0]]
        np.testing.assert_allclose(batch.image[0, 0], ramp * expected, atol=0.005 * expected)
    (alone,) = BatchLoader(samples[:1], 1, seed=1, augmentation=Augmentation(histogram=1)).epoch(0)
    assert np.array_equal(alone.image[0, 0], ramp)


@pytest.fixture
def made(monkeypatch):
    """Epoch and step of the batches made, in order."""
    places: queue.Queue = queue.Queue()
    make = BatchLoader._make

    def record(self, epoch, step, indices):
        places.put((epoch, step))
        return make(self, epoch, step, indices)

    monkeypatch.setattr(BatchLoader, "_make", record)
    return places


def test_the_next_epochs_first_batch_is_made_ahead(made):
    samples = make_samples(4)
    loader = BatchLoader(samples, 2, seed=1)
    expected = [[samples[index].image] for epoch in (1, 2) for index in loader.order(epoch).ravel()]
    found = [batch.image for batch in loader.epoch(1)]
    assert [made.get(timeout=10) for _ in range(3)] == [(1, 0), (1, 1), (2, 0)]
    found += [batch.image for batch in loader.epoch(2)]
    assert [made.get(timeout=10) for _ in range(2)] == [(2, 1), (3, 0)]
    assert np.array_equal(np.concatenate(found), expected)


def test_another_epoch_than_the_next_is_its_own(made):
    samples = make_samples(4)
    before = threading.enumerate()
    loader = BatchLoader(samples, 2, seed=1)
    assert len(list(loader.epoch(1))) == 2
    for batch, indices in zip(loader.epoch(7), loader.order(7), strict=True):
        assert np.array_equal(batch.image[:, 0], [samples[index].image for index in indices])
    assert [t.name[:12] for t in threading.enumerate() if t not in before] == ["batch-loader"]
    loader.close()
    assert set(threading.enumerate()) <= set(before)


def test_nothing_is_streamed_that_may_not_be_needed(made):
    samples = make_samples(4)
    cases = [Case(sample.case_id, Path(sample.case_id)) for sample in samples]
    loader = BatchLoader(StreamedSamples(cases, lambda case: samples[int(case.case_id[4:])]), 2, seed=1)
    assert len(list(loader.epoch(1))) == 2
    loader.close()
    assert list(made.queue) == [(1, 0), (1, 1)]


def test_an_error_in_the_loader_thread_is_raised_and_the_thread_ends():
    with pytest.raises(ValueError, match="Case0.: no label"):
        list(BatchLoader(make_samples(2, label=False), 1, seed=1).epoch(0))
    before = threading.enumerate()
    epoch = BatchLoader(make_samples(6), 1, seed=1).epoch(0)
    next(epoch)
    epoch.close()  # leaving early must not leave the thread behind
    assert set(threading.enumerate()) <= set(before)


def test_weights_decide_how_often_a_sample_is_drawn():
    samples = make_samples(10, shape=(1, 1, 1))
    weights = np.array([0.5, 0.3, 0.2, *[0] * 7])
    loader = BatchLoader(samples, 4, seed=1, weights=weights)
    assert loader.steps_per_epoch == 3  # as many as there are samples, filled up to whole batches
    drawn = np.stack([loader.order(epoch).ravel() for epoch in range(400)])
    assert np.array_equal(drawn[:, 10:], drawn[:, :2])
    # The counts of 4000 draws are within four of their standard deviations.
    counts = np.bincount(drawn[:, :10].ravel(), minlength=10)
    assert np.all(np.abs(counts - 4000 * weights) <= 4 * np.sqrt(4000 * weights * (1 - weights)))
    assert np.array_equal(loader.order(7), BatchLoader(samples, 4, seed=1, weights=weights).order(7))
    assert not np.array_equal(loader.order(7), BatchLoader(samples, 4, seed=2, weights=weights).order(7))
    two = [BatchLoader(samples, 2, seed=1, rank=r, world_size=2, weights=weights).order(7) for r in range(2)]
    assert np.array_equal(np.concatenate(two, axis=1), loader.order(7))
    with pytest.raises(ValueError, match="3 weights for 10 samples"):
        BatchLoader(samples, 4, seed=1, weights=weights[:3])


def test_pictures_keep_their_channels_and_are_augmented():
    grid = Geometry((6, 4, 1))
    samples = [dataclasses.replace(sample, image=np.stack([sample.image] * 3), block=grid)
               for sample in make_samples(2, shape=(4, 6))]
    plain, mirrored = (next(BatchLoader(samples, 2, seed=1, augmentation=augmentation).epoch(0))
                       for augmentation in (None, SliceAugmentation(flip_x=1)))
    assert plain.image.shape == (2, 3, 4, 6) and plain.label.shape == (2, 4, 6)
    assert np.array_equal(mirrored.image, plain.image[..., ::-1])
    one_channel = [dataclasses.replace(sample, image=sample.image[0]) for sample in samples]
    assert next(BatchLoader(one_channel, 2, seed=1).epoch(0)).image.shape == (2, 1, 4, 6)


def test_no_samples():
    with pytest.raises(ValueError, match="found none"):
        BatchLoader([], 1, seed=1)


def test_samples_are_augmented_with_their_own_spacing():
    grid = Geometry((12, 10, 8), (1.0, 1.0, 3.0))
    (sample,) = make_samples(1, shape=grid.size)
    turn = Augmentation(rotate=1)
    (batch,) = BatchLoader([dataclasses.replace(sample, block=grid)], 1, seed=1, augmentation=turn).epoch(0)
    image, label = turn(sample.image, sample.label, np.random.default_rng([1, 0, 0, 1]), grid.spacing)
    assert np.array_equal(batch.image[0, 0], image) and np.array_equal(batch.label[0], label)
    assert not np.array_equal(image, turn(sample.image, sample.label, np.random.default_rng([1, 0, 0, 1]))[0])
