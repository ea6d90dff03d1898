"""Where the network is cut, by times of blocks."""

import mindspore as ms
import numpy as np
import pytest

from src.losses import build_loss
from src.training.pipeline_balance import BlockTimes, measure_blocks
from tests.training import pipeline_worker


def test_the_slower_stage_decides():
    # The first stage computes forward twice: backward times hold one of them.
    times = BlockTimes(forward=[1, 1, 1, 1], backward=[3, 3, 3, 3])
    assert times.stages(1) == (4, 9)
    assert times.stages(2) == (8, 6)
    assert times.best_split() == 2
    assert BlockTimes(forward=[1, 1, 1, 9], backward=[3, 3, 3, 27]).best_split() == 3
    assert BlockTimes(forward=[5, 1, 1], backward=[15, 3, 3]).best_split() == 1


def test_the_shortest_measurement_of_a_block_counts():
    found = BlockTimes.fastest([BlockTimes([1, 5, 2], [9, 3, 4]), BlockTimes([2, 4, 2], [8, 6, 4])])
    assert (found.forward, found.backward) == ([1, 4, 2], [8, 3, 4])


def test_measuring_changes_nothing(kernels_in_use):
    ms.set_context(mode=ms.GRAPH_MODE)
    network = pipeline_worker.TwoBlocks()
    network.set_train(True)
    before = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    image, label = pipeline_worker.batch(1)
    times = measure_blocks(network, build_loss({"loss": "bce"}), image, label)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    assert len(times.forward) == len(times.backward) == 2
    assert min(times.forward + times.backward) > 0
    for parameter in network.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name])
    assert sum(times.stages(1)) == pytest.approx(sum(times.backward) + times.forward[0])
