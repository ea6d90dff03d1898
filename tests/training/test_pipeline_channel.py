"""Messages between two ranks: whole, in order, without waiting; and what is said when a rank ends."""

import queue
import socket
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from mindspore import Tensor

from src.backend import Backend
from src.errors import UserError
from src.losses import build_loss
from src.networks import UNet3d
from src.overrides import load_recipe
from src.training import pipeline_channel
from src.training.pipeline import MicroBatchStep
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


def test_what_goes_wrong_in_a_thread_is_raised_where_it_is_waited_for(channels, monkeypatch):
    first, second = channels
    taken = np.empty

    def no_memory(shape, *rest):
        if shape == [2, 3]:
            raise MemoryError("2 x 3")
        return taken(shape, *rest)

    monkeypatch.setattr(pipeline_channel.np, "empty", no_memory)
    first.send([Tensor(np.zeros((2, 3), np.float32))])
    for _ in range(2):
        with pytest.raises(MemoryError, match="2 x 3"):
            second.receive()
    with pytest.raises(MemoryError):
        second.send([])
    with pytest.raises(UserError, match="the other rank ended"):  # and the other rank does not wait for ever
        first.receive()


class Device:
    """Stands in for mindspore.mint.distributed of one rank: a communicator takes one operation after the other.

    A send ends when the other rank receives it in the same group, as with large messages of HCCL. What a rank asks of a
    group is done in the order asked.
    """

    def __init__(self, wires):
        self.wires = wires  # queues of arrays by group, which both ranks see
        self.streams = {}  # the work of this rank by group
        self.waited = 0

    def _submit(self, group, work):
        if group not in self.streams:
            self.streams[group] = ThreadPoolExecutor(1)
        return self.streams[group].submit(work)

    def isend(self, tensor, dst, group):
        array, device = tensor.asnumpy().copy(), self

        def offer():
            taken = threading.Event()
            self.wires[group].put((array, dst, taken))
            assert taken.wait(10), "nobody received"

        done = self._submit(group, offer)

        class Handle:
            def wait(self):
                done.result(20)
                device.waited += 1

        return Handle()

    def recv(self, tensor, src, group):
        def take():
            array, dst, taken = self.wires[group].get(timeout=5)
            assert (dst, tensor.shape) == (1 - src, array.shape)
            tensor.assign_value(Tensor(array))
            taken.set()

        self._submit(group, take).result(20)


@pytest.fixture
def mint_channels(monkeypatch):
    """A channel of each rank with its device; no such device was at hand."""
    from mindspore import communication
    from mindspore.mint import distributed

    groups, wires, here = [], defaultdict(queue.Queue), threading.local()
    monkeypatch.setattr(communication, "create_group", lambda *arguments: groups.append(arguments))
    monkeypatch.setattr(distributed, "isend", lambda *arguments: here.device.isend(*arguments))
    monkeypatch.setattr(distributed, "recv", lambda *arguments: here.device.recv(*arguments))
    channels = [open_channel(Backend("Ascend", rank=rank, world_size=2)) for rank in range(2)]
    assert all(isinstance(channel, MintChannel) for channel in channels)
    assert groups == [("pipeline_from_0", [0, 1]), ("pipeline_from_1", [0, 1])] * 2
    devices = [Device(wires) for _ in range(2)]

    def run(work):
        """Call work(rank, channel, device) for both ranks at once."""
        def one(rank):
            here.device = devices[rank]
            return work(rank, channels[rank], devices[rank])

        with ThreadPoolExecutor(2) as both:
            return list(both.map(one, range(2)))

    return run


def test_other_devices_take_mindspores_operators(mint_channels):
    """Both ranks send first and receive then, more tensors than any fixed announcement has room for."""
    messages = [[np.full((1, 2, number % 3 + 1), 100 * rank + number, np.float32) for number in range(150)]
                for rank in range(2)]

    def exchange(rank, channel, device):
        channel.send([Tensor(array) for array in messages[rank]])
        found = [tensor.asnumpy() for tensor in channel.receive()]
        assert len(channel._pending) == 152
        channel.wait()
        assert (channel._pending, device.waited) == ([], 152)
        channel.close()
        return found

    for rank, found in enumerate(mint_channels(exchange)):
        assert len(found) == 150
        for array, expected in zip(found, messages[1 - rank], strict=True):
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("split", [1, 5])
def test_all_that_a_stage_tells_the_other_goes_through(mint_channels, split):
    """The parameters and the optimiser of a stage of the 3-D U-Net, as after each epoch."""
    recipe = load_recipe("unet3d_brain")

    def tell(rank, channel, device):
        return exchanged[rank].exchange() or channel._pending

    exchanged = [MicroBatchStep(UNet3d(), build_loss({"loss": "bce"}), recipe, rank, split) for rank in range(2)]
    mint_channels(lambda rank, channel, device: setattr(exchanged[rank], "channel", channel))
    assert mint_channels(tell) == [[], []]
    names = [{p.name for p in step.get_parameters()} for step in exchanged]
    assert names[0] == names[1]
    values = [{p.name: p.asnumpy() for p in step.get_parameters()} for step in exchanged]
    assert all(np.array_equal(values[0][name], values[1][name]) for name in names[0])


def test_both_ranks_open_one_channel(monkeypatch, tmp_path):
    """The first listens and says where; the second connects."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("a" * 120)))  # longer than the path of a socket may be
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
