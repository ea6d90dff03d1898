"""Where a result was measured."""

import datetime
import os
import platform

from src.machine import environment


def test_says_when_and_on_what():
    found = environment()
    assert set(found) == {"date", "cpu", "cores", "system", "python"}
    assert found["cores"] == os.cpu_count() and found["python"] == platform.python_version()
    age = datetime.datetime.now().astimezone() - datetime.datetime.fromisoformat(found["date"])
    assert abs(age) < datetime.timedelta(minutes=1)
