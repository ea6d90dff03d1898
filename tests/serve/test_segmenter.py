"""Cancelling between windows, recipes that are not served, and the queue's arithmetic."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from src.data.brain_tumour import BrainTumourManager
from src.data.data_manager import DataManager
from src.errors import DataError, UserError
from src.inference.sliding_window import WindowPredictor
from src.serve import segmenter as segmenter_module
from src.serve.job import ClientGone, Job
from src.serve.limits import Limits, Refusal
from src.serve.places import Places
from src.serve.segmenter import Answer, Segmenter
from tests.inference.helpers import FunctionPredictor, bright
from tests.serve.helpers import Gate, bright_file, source


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


def test_further_looks_have_a_turn_each_and_their_preprocessing_is_no_waiting(tmp_path, monkeypatch):
    network, manager = bright(), DataManager((1.5, 1.5, 1.5), (32, 32, 32), zoom_ml=1.0)
    segmenter = Segmenter(lambda: source(network, manager), Limits())
    network.blocks.clear()
    preprocess = manager.preprocess
    monkeypatch.setattr(manager, "preprocess", lambda *arguments: time.sleep(0.2) or preprocess(*arguments))
    job = Job()
    segmenter.submit(job, io.BytesIO(bright_file(tmp_path, "a.nii")), "a.nii", _mask).result(60)
    segmenter.close()
    assert len(network.blocks) == 3
    assert list(job.seconds) == ["read", "preprocess", "wait", "network", "postprocess", "write"]
    assert job.seconds["preprocess"] >= 0.6 and job.seconds["wait"] < 0.4


def test_other_recipes_are_refused_at_the_start():
    with pytest.raises(UserError, match="a model: its recipe is of the task 'brain_tumour'.*use predict.py"):
        Segmenter(lambda: source(bright(), BrainTumourManager(), "brain_tumour"), Limits())


def refused(name: str, tmp_path) -> Refusal:
    segmenter = Segmenter(lambda: source(bright()), Limits())
    try:
        with pytest.raises(Refusal) as caught:
            segmenter.run(Job(), io.BytesIO(bright_file(tmp_path, "a.nii")), name)
        return caught.value
    finally:
        segmenter.close()


def test_problems_are_told_without_addresses_and_logged_without_names(tmp_path, monkeypatch):
    def fail(case, _):
        raise DataError([f"{case.image_path}: SimpleITK cannot read it (ITK ERROR: NiftiImageIO(0x7f354c04f670): "
                         f"{case.image_path} is not recognized as a NIFTI file); write the file anew",
                         f"{case.image_path}: itk::Thing (0x12AB): line 1 of the header is 'Jones', expected 3"])

    monkeypatch.setattr(segmenter_module, "read_case", fail)
    found = refused("J. Smith (1).nii", tmp_path)
    assert found.status == 422
    assert found.reason == (
        "J. Smith (1).nii: SimpleITK cannot read it (J. Smith (1).nii is not recognized as a NIFTI file); write the "
        "file anew\nJ. Smith (1).nii: line 1 of the header is 'Jones', expected 3")
    assert found.logged == ("...: SimpleITK cannot read it (... is not recognized as a NIFTI file); write the file "
                            "anew; ...: line 1 of the header is ..., expected 3")


def test_errors_of_ours_are_logged_without_names(tmp_path, monkeypatch, caplog):
    def fail(case, _):
        raise UserError(f"{case.case_id}: the network fails; /out/Smith_test.nii.gz: no space")

    monkeypatch.setattr(segmenter_module, "read_case", fail)
    found = refused("Smith.nii", tmp_path)
    assert (found.status, "Smith" in found.reason) == (500, False)
    assert caplog.messages[-1] == "...: the network fails; /out/...: no space"


def test_how_long_the_network_is_at_a_volume(tmp_path):
    gate = Gate()
    segmenter = Segmenter(lambda: source(gate), Limits())
    assert segmenter.busy_seconds() == 0
    working = segmenter.submit(Job(), io.BytesIO(bright_file(tmp_path, "a.nii")), "a.nii", _mask)
    assert gate.waiting.acquire(timeout=60)
    before = segmenter.busy_seconds()
    time.sleep(0.1)
    assert segmenter.busy_seconds() >= before + 0.1
    gate.open.set()
    working.result(60)
    assert segmenter.busy_seconds() == 0
    segmenter.close()


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
