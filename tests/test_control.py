"""Ranks that meet, tell each other values, and notice when one is gone; as threads, and once as processes."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from src import control as module
from src.control import Control, meet, settle
from src.errors import UserError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(autouse=True)
def ended(monkeypatch) -> Iterator[list[float]]:
    """When this process would have ended, and after how many seconds."""
    asked: list[float] = []
    monkeypatch.setattr(module, "_end_process", asked.append)
    monkeypatch.setattr(module, "NOTICE_SECONDS", 0.0)
    yield asked
    module._watching.clear()


def meet_all(port: int, sizes: dict[int, int], seconds: float = 10,
             settings: dict[int, dict] | None = None) -> dict[int, Control | str]:
    """The connections of each rank, or what it finds wrong; `sizes` maps rank to the world size that it believes in."""
    found: dict[int, Control | str] = {}

    def one(place: int, rank: int, size: int) -> None:
        try:
            found[place] = meet("127.0.0.1", port, rank, size, seconds, (settings or {}).get(rank))
        except UserError as error:
            found[place] = str(error)

    threads = [threading.Thread(target=one, args=(place, rank, size))
               for place, (rank, size) in enumerate(sorted(sizes.items(), reverse=True))]
    for thread in threads:  # rank 0 comes last
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    return dict(zip(sorted(sizes, reverse=True), (found[place] for place in sorted(found)), strict=True))


@pytest.fixture
def three(port) -> Iterator[dict[int, Control]]:
    ranks = meet_all(port, {0: 3, 1: 3, 2: 3})
    assert {type(one) for one in ranks.values()} == {Control}
    yield ranks
    for one in ranks.values():
        one.leave()


def on_all(ranks: dict[int, Control], work: Callable[[int, Control], object]) -> dict[int, object]:
    results: dict[int, object] = {}

    def one(rank: int, control: Control) -> None:
        try:
            results[rank] = work(rank, control)
        except UserError as error:
            results[rank] = str(error)

    threads = [threading.Thread(target=one, args=item) for item in ranks.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


def test_values_of_all_ranks_in_their_order_also_of_a_late_one(three):
    def work(rank: int, control: Control) -> list:
        time.sleep(0.3 * (rank == 2))
        big = bytes(range(256)) * 20000 * rank  # beyond a socket's buffers
        return [control.gather({"rank": rank, "value": 0.1 + rank}), control.gather(big), control.gather(None)]

    expected = [[{"rank": rank, "value": 0.1 + rank} for rank in range(3)],
                [bytes(range(256)) * 20000 * rank for rank in range(3)], [None] * 3]
    assert on_all(three, work) == dict.fromkeys(range(3), expected)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_lost_rank_is_named_by_all_others(three, ended, caplog):
    """Rank 1 fails: 0 sees its connection end, and tells rank 2."""
    three.pop(1).leave(failed=True)
    wait_for(lambda: len(ended) == 2)
    assert ended == [module.GRACE_SECONDS] * 2  # its launcher is ours
    lines = sorted(record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)
    assert lines == [f"rank 1 at 127.0.0.1 is gone, so rank {rank} ends too; look at that rank's log, and continue "
                     "with --resume RUN_DIR" for rank in (0, 2)]
    assert module.LOST_RANK.search(lines[0])[0] == "rank 1 at 127.0.0.1 is gone"


def test_a_rank_of_another_machine_needs_no_grace(three, ended):
    three[0]._lose(1, "192.0.2.7", "Connection timed out", "127.0.0.1")
    wait_for(lambda: len(ended) == 2)
    assert ended == [0.0, 0.0]


def test_a_rank_that_is_done_may_leave(three, ended, caplog):
    three[1].leave()
    for _ in range(2):
        with pytest.raises(UserError, match="^rank 1 has ended while this rank waits for it"):
            three[0].gather(0)
    three[0].leave()
    three[2].leave()
    time.sleep(0.1)
    assert (ended, caplog.text) == ([], "")


def test_all_ranks_leave_in_any_order(three, ended):
    for rank in (0, 2, 1):
        three[rank].leave()
    time.sleep(0.1)
    assert ended == []


def test_ranks_that_fail_together_do_not_name_each_other(three, ended, monkeypatch, caplog):
    monkeypatch.setattr(module, "NOTICE_SECONDS", 0.3)
    for rank in (1, 0, 2):
        three[rank].leave(failed=True)
    time.sleep(0.6)
    assert (ended, caplog.text) == ([], "")


def test_settling_gives_the_others_time_only_where_somebody_watches(monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    settle()
    assert slept == []
    module._watching.set()
    settle()
    assert slept == [8.0]


def test_a_missing_rank_is_named_on_every_rank_that_came(port):
    began = time.monotonic()
    found = meet_all(port, {0: 4, 2: 4}, 0.5)
    assert time.monotonic() - began < 5
    assert found[0] == found[2]
    assert found[0].startswith("ranks 1, 3 of 4 did not come within 0 s; look at their logs")


def test_without_rank_0_the_others_say_where_they_looked(port):
    found = meet_all(port, {1: 2}, 0.3)
    assert found[1].startswith(f"rank 1 did not reach rank 0 at 127.0.0.1:{port} within 0 s (")


@pytest.mark.parametrize(("sizes", "message"), [
    ({0: 2, 1: 4}, "rank 1 was started as one of 4 ranks, rank 0 as one of 2; NODE_NUM"),
    ({0: 2, 5: 2}, "a rank came as number 5, expected 1 to 1; each node needs a NODE_RANK from 0 to NODE_NUM - 1")])
def test_ranks_that_disagree_on_their_numbers(port, sizes, message):
    found = meet_all(port, sizes)
    assert len(set(found.values())) == 1
    assert found[0].startswith(message)


def test_a_rank_that_comes_twice(port):
    answers: list[str] = []

    def come() -> None:
        try:
            meet("127.0.0.1", port, 1, 3, 10)
        except UserError as error:
            answers.append(str(error))

    threads = [threading.Thread(target=come) for _ in range(2)]
    for thread in threads:
        thread.start()
    with pytest.raises(UserError, match="^rank 1 came twice; each node needs a NODE_RANK of its own"):
        meet("127.0.0.1", port, 0, 3, 10)
    for thread in threads:
        thread.join()
    assert [answer.partition(";")[0] for answer in answers] == ["rank 1 came twice"] * 2


def test_ranks_with_other_settings(port):
    same = {"lr": 0.1, "VolSize": [16, 16, 16], "path": Path("x")}
    found = meet_all(port, {0: 2, 1: 2}, settings={0: {**same, "val_every": 1}, 1: {**same, "val_every": 0}})
    assert found[0] == found[1]
    assert found[0].startswith("rank 1 was started with other settings (val_every: 0, not 1); start all nodes from the "
                               "same code")
    many = dict.fromkeys("abcd", 1)
    found = meet_all(port, {0: 2, 1: 2}, settings={0: many, 1: dict.fromkeys("abcd", 2)})
    assert "(a: 2, not 1; b: 2, not 1; c: 2, not 1 and 1 more)" in found[0]
    for one in meet_all(port, {0: 2, 1: 2}, settings={0: same, 1: dict(same)}).values():
        assert isinstance(one, Control)
        one.leave()


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n", b"", b"h" + (3).to_bytes(8, "little") + b"[1]"])
def test_a_stranger_at_the_port_is_ignored(port, words):
    def knock() -> None:
        for _ in range(100):
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                    connection.sendall(words)
                    return
            except OSError:
                time.sleep(0.02)

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        with pytest.raises(UserError, match="^rank 1 of 2 did not come within 1 s"):
            meet("127.0.0.1", port, 0, 2, 1)
    finally:
        thread.join()


def test_a_taken_port(port):
    with (socket.create_server(("127.0.0.1", port)),
          pytest.raises(UserError, match=rf"cannot listen at 127.0.0.1:{port} \(Address already in use\); set")):
        meet("127.0.0.1", port, 0, 2, 1)


def test_a_killed_process_ends_the_others_whatever_they_do(port):
    """Rank 0 sleeps in its main thread, and is on what it takes for another machine."""
    code = ("import sys, time, logging; from src import control; control.GRACE_SECONDS = 0.0; rank = int(sys.argv[1]); "
            f"c = control.meet('127.0.0.1', {port}, rank, 2); print(c.gather(rank), flush=True); time.sleep(60)")
    ranks = [subprocess.Popen([sys.executable, "-c", code, str(rank)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) for rank in range(2)]
    assert [rank.stdout.readline() for rank in ranks] == ["[0, 1]\n"] * 2
    os.kill(ranks[1].pid, signal.SIGKILL)
    began = time.monotonic()
    _, said = ranks[0].communicate(timeout=20)
    ranks[1].communicate()
    assert time.monotonic() - began < 5
    assert ranks[0].returncode == 2
    assert re.fullmatch(r"rank 1 at 127.0.0.1 is gone.*, so rank 0 ends too; .*\n", said)
