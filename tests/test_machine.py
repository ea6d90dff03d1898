"""Where a result was measured."""

import datetime
import os
import platform
import time
from pathlib import Path

import pytest

from src import machine
from src.machine import busy_cores, busy_seconds, environment


def test_says_when_and_on_what():
    found = environment()
    assert set(found) == {"date", "cpu", "cores", "system", "python"}
    assert found["cores"] == os.cpu_count() and found["python"] == platform.python_version()
    age = datetime.datetime.now().astimezone() - datetime.datetime.fromisoformat(found["date"])
    assert abs(age) < datetime.timedelta(minutes=1)


def test_busy_seconds_count_what_this_process_works():
    before, own = busy_seconds(), time.process_time()
    while time.process_time() - own < 0.3:
        pass
    assert busy_seconds() - before >= 0.25  # the kernel counts in ticks of 0.01 s


@pytest.mark.parametrize(("worked", "share"), [(0.0, 0.0), (2.0, 2.0)])
def test_busy_cores_is_work_by_time(monkeypatch, worked, share):
    seconds = iter([100.0, 100.0 + worked])
    monkeypatch.setattr(machine, "busy_seconds", lambda: next(seconds))
    monkeypatch.setattr(machine.time, "sleep", lambda _: None)
    clock = iter([5.0, 6.0])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    assert busy_cores() == share


def test_busy_cores_without_proc_stat(monkeypatch):
    def absent(_):
        raise FileNotFoundError("/proc/stat")

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 0.0, 0.0))
    assert busy_cores() == 1.5
