"""Cancelling between windows, recipes that are not served, and the queue's arithmetic."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from src.data.brain_tumour import BrainTumourManager
from src.data.data_manager import DataManager
from src.errors import UserError
from src.inference.sliding_window import WindowPredictor
from src.serve.job import ClientGone, Job
from src.serve.limits import Limits, Refusal
from src.serve.places import Places
from src.serve.segmenter import Answer, Segmenter
from tests.inference.helpers import FunctionPredictor, bright
from tests.serve.helpers import bright_file, source


def _mask(answer: Answer) -> bytes:
    return answer.content


def test_a_job_ends_between_windows(tmp_path):
    started, go_on = threading.Event(), threading.Event()

    def answer(image: np.ndarray) -> np.ndarray:
        if image.any():
            started.set()
            assert go_on.wait(60)
        return image > 1.0

    windows = FunctionPredictor(answer)
    whole = DataManager((1.5, 1.5, 1.5), (16, 16, 16), whole=True)
    segmenter = Segmenter(lambda: source(WindowPredictor(windows, (16, 16, 16), 0.5), whole), Limits())
    windows.blocks.clear()
    content = bright_file(tmp_path, "a.nii")
    job = Job()
    working = segmenter.submit(job, io.BytesIO(content), "a.nii", _mask)
    assert started.wait(60)
    job.cancel()
    go_on.set()
    with pytest.raises(ClientGone):
        working.result(60)
    assert len(windows.blocks) == 1
    segmenter.submit(Job(), io.BytesIO(content), "a.nii", _mask).result(60)
    assert len(windows.blocks) == 1 + 2 * 2 * 2  # 20 x 24 x 20 voxels of 1.5 mm
    segmenter.close()


def test_other_recipes_are_refused_at_the_start():
    with pytest.raises(UserError, match="a model: its recipe is of the task 'brain_tumour'.*use predict.py"):
        Segmenter(lambda: source(bright(), BrainTumourManager(), "brain_tumour"), Limits())


def test_a_cancelled_job_gets_no_turn():
    job = Job()
    job.cancel()
    with pytest.raises(ClientGone):
        job.check()
    release = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(release.wait)
        with pytest.raises(ClientGone):
            job.turn(executor, lambda: pytest.fail("it had a turn"))
        waiting = Job()
        threading.Timer(0.1, waiting.cancel).start()
        with pytest.raises(ClientGone):
            waiting.turn(executor, lambda: pytest.fail("it had a turn"))
        release.set()


def test_stages_are_timed():
    job = Job()
    job.start()
    time.sleep(0.02)
    job.mark("read")
    job.mark("network")
    assert list(job.seconds) == ["read", "network"]
    assert job.seconds["read"] >= 0.02 > job.seconds["network"]


def test_places():
    seen: list[int] = []
    places = Places(Limits(places=2, seconds=10), seen.append)
    first, second = places.take(), places.take()
    with pytest.raises(Refusal) as caught:
        places.take()
    assert (caught.value.status, caught.value.retry_after) == (503, 2)  # two of one second each
    places.learn(3.0)
    assert places.typical == pytest.approx(0.7 * 1 + 0.3 * 3)
    assert places.wait_seconds() == 4  # 2 * 1.6, rounded up
    places.learn(1000.0)
    assert places.wait_seconds() == 10  # the time limit
    first()
    first()
    assert seen == [1, 2, 1]
    places.take()
    second()
    assert places.taken == 1
