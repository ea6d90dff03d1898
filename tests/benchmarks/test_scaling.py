"""Which jobs are measured, and what their times mean."""

import pytest
from scaling import figures, plan_jobs


def test_jobs_are_one_rank_with_both_batches_and_the_ranks():
    assert plan_jobs([1, 2], 1, False) == {"1x1": (1, 1, "auto"), "1x2": (1, 2, "auto"), "2x1": (2, 1, "auto")}
    assert plan_jobs([2, 4], 2, True) == {
        "1x2": (1, 2, "auto"), "1x8": (1, 8, "auto"), "2x2": (2, 2, "auto"), "2x4": (2, 4, "auto"),
        "4x2": (4, 2, "auto"), "4x2-sockets": (4, 2, "sockets")}
    with pytest.raises(ValueError, match="a global batch of 4 cannot be shared among 3"):
        plan_jobs([3, 4], 1, False)


def rank(seconds, in_mean=0.0, waiting=0.0):
    return {"seconds": seconds, "in_mean": [in_mean] * len(seconds), "waiting": [waiting] * len(seconds)}


def test_figures_by_hand():
    jobs = plan_jobs([1, 2], 1, True)
    turns = {
        "1x1": [[rank([4.0, 4.0])], [rank([5.0, 4.0])]],  # 0.25 volumes a second
        "1x2": [[rank([7.0])], [rank([9.0])], [rank([8.0])]],  # 0.25
        "2x1": [[rank([5.0], 0.5, 0.25), rank([4.0], 1.5, 0.75)]],  # the slower rank counts: 0.4
        "2x1-sockets": [[rank([6.0]), rank([8.0])]],  # 0.25
    }
    means = {"2x1": [{"seconds": [0.25]}, {"seconds": [0.5]}],
             "2x1-sockets": [{"seconds": [2.0, 2.0, 9.0]}, {"seconds": [1.0, 1.0, 1.0]}]}
    found = figures(jobs, turns, means, 1)
    assert found["throughput_1x1"] == found["throughput_1x2"] == 0.25
    assert found["weak_scaling_2"] == found["strong_scaling_2"] == pytest.approx(0.8)
    assert found["weak_scaling_2_sockets"] == pytest.approx(0.5)
    assert found["all_reduce_seconds_2x1"] == 0.5
    assert found["all_reduce_share_2x1"] == pytest.approx(0.2)
    assert found["waiting_share_2x1"] == pytest.approx(0.1)
    assert found["all_reduce_seconds_2x1_sockets"] == 2.0
    assert list(found)[-1] == "weak_scaling_2"
