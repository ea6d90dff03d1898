"""Messages between two ranks: whole, in order, without waiting; and what is said when a rank ends."""

import socket

import numpy as np
import pytest
from mindspore import Tensor

from src.backend import Backend
from src.errors import UserError
from src.training import pipeline_channel
from src.training.pipeline_channel import LocalChannel, MintChannel, connect, open_channel


@pytest.fixture
def channels():
    ends = [LocalChannel(end) for end in socket.socketpair()]
    yield ends
    for end in ends:
        end.close()


def test_messages_arrive_whole_and_in_order(channels):
    first, second = channels
    rng = np.random.default_rng(0)
    # The largest one is beyond any socket buffer, and nobody receives yet.
    messages = [[np.asarray(rng.normal(size=shape), np.float32) for shape in shapes]
                for shapes in ([(3, 1500, 1000), (2,)], [(1, 1), ()], [], [(0, 4)])]
    for message in messages:
        first.send([Tensor(array) for array in message])
    second.send([Tensor(np.array([1.5, 2.5]))])
    for message in messages:
        received = second.receive()
        assert len(received) == len(message)
        for tensor, array in zip(received, message, strict=True):
            np.testing.assert_array_equal(tensor.asnumpy(), array)
            assert tensor.shape == np.shape(array)
    np.testing.assert_array_equal(first.receive()[0].asnumpy(), [1.5, 2.5])
    assert first.bytes_sent == sum(array.nbytes for message in messages for array in message)


def test_a_rank_that_ends_is_noticed(channels):
    first, second = channels
    first.close()
    for _ in range(2):
        with pytest.raises(UserError, match="the other rank ended.*--resume"):
            second.receive()
    with pytest.raises(UserError, match="the other rank ended"):
        second.send([Tensor(np.zeros(1, np.float32))])


def test_nobody_listens(tmp_path):
    with pytest.raises(UserError, match="cannot be reached .*on one machine"):
        connect(tmp_path / "socket")


class Wire:
    """Stands in for mindspore.mint.distributed: what is sent can be received at once."""

    def __init__(self):
        self.sent = []

    def isend(self, tensor, dst):
        self.sent.append((tensor.asnumpy().copy(), dst))
        return self

    def recv(self, tensor, src):
        array, _ = self.sent.pop(0)
        assert tensor.shape == array.shape
        tensor.set_data(Tensor(array)) if hasattr(tensor, "set_data") else tensor.assign_value(Tensor(array))

    def wait(self):
        pass


def test_other_devices_take_mindspores_operators(monkeypatch):
    """Recorded calls: no such device was at hand."""
    from mindspore import communication
    from mindspore.mint import distributed

    wire, groups = Wire(), []
    monkeypatch.setattr(communication, "create_group", lambda *arguments: groups.append(arguments))
    monkeypatch.setattr(communication, "get_group_size", lambda: 2)
    for name in ("isend", "recv"):
        monkeypatch.setattr(distributed, name, getattr(wire, name))
    channel = open_channel(Backend("Ascend", rank=0, world_size=2))
    assert isinstance(channel, MintChannel)
    assert groups == [("hccl_world_group", [0, 1])]
    arrays = [np.arange(6, dtype=np.float32).reshape(1, 2, 3), np.array([7.0], np.float32)]
    channel.send([Tensor(array) for array in arrays])
    assert {dst for _, dst in wire.sent} == {1}
    assert len(wire.sent) == 3
    for found, array in zip(channel.receive(), arrays, strict=True):
        np.testing.assert_array_equal(found.asnumpy(), array)
    channel.close()


def test_both_ranks_open_one_channel(monkeypatch):
    """The first listens and says where; the second connects."""
    import queue
    import threading

    said: queue.Queue = queue.Queue()

    def gather(backend, value):
        if backend.rank == 0:
            said.put(value)
            return [value, ""]
        return [said.get(timeout=20), value]

    monkeypatch.setattr(pipeline_channel, "gather", gather)
    opened = {}
    threads = [threading.Thread(target=lambda rank=rank: opened.update(
        {rank: open_channel(Backend("CPU", rank=rank, world_size=2))})) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened[0].send([Tensor(np.array([5.0], np.float32))])
    assert opened[1].receive()[0].asnumpy().tolist() == [5.0]
    for channel in opened.values():
        channel.close()
