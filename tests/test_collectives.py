"""Shares and their order; messages between real ranks are in tests/training/test_data_parallel.py."""

import numpy as np
import pytest
from mindspore import Parameter, Tensor

from src import collectives
from src.backend import Backend
from src.collectives import ONE_RANK, average, gather, gather_shares, share
from src.errors import DataError, UserError


def test_one_rank_talks_to_nobody():
    parameter = Parameter(Tensor(np.ones(3, np.float32)), name="p")
    average(ONE_RANK, [parameter])
    assert gather(ONE_RANK, {"a": 1}) == [{"a": 1}]
    assert share(ONE_RANK, "abc") == ["a", "b", "c"]
    assert gather_shares(ONE_RANK, lambda: [1, 2]) == [1, 2]
    assert parameter.asnumpy().tolist() == [1, 1, 1]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8])
def test_shares_cover_all_items_and_come_back_in_order(ranks, count, monkeypatch):
    items = list(range(count))
    backends = [Backend("CPU", rank=rank, world_size=ranks) for rank in range(ranks)]
    shares = [share(backend, items) for backend in backends]
    assert sorted(item for own in shares for item in own) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    monkeypatch.setattr(collectives, "gather", lambda backend, value: [(own, None) for own in shares])
    for backend, own in zip(backends, shares, strict=True):
        assert gather_shares(backend, lambda own=own: own) == items


def test_an_error_on_one_rank_is_raised_on_all(monkeypatch):
    def fail():
        raise DataError(["Case01: cut short"])

    two = Backend("CPU", world_size=2)
    sent = []
    monkeypatch.setattr(collectives, "gather", lambda backend, value: sent.append(value) or [value, ([1], None)])
    with pytest.raises(DataError, match="Case01: cut short"):
        gather_shares(two, fail)
    monkeypatch.setattr(collectives, "gather", lambda backend, value: [sent[0], value])
    with pytest.raises(UserError, match="1 problem in the data:\n  - Case01: cut short"):
        gather_shares(two, lambda: [1])
