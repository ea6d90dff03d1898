"""What one rank does: the batches it takes, and that a step is a step."""

import itertools
import json
from dataclasses import asdict

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from src.backend import Backend
from src.benchmark import worker
from src.benchmark.plan import Job
from src.errors import UserError
from src.files import write_json
from src.overrides import load_recipe, plain
from tests.pictures import make_em

SMALL = ["image_size=[64,48]", "base_channels=4", "batch_size=2"]


@pytest.mark.parametrize(("name", "overrides", "shape"), [
    ("unet2d_em", SMALL, (2, 1, 48, 64)),  # H is y, W is x
    ("unet2d_lgg", SMALL, (2, 3, 48, 64)),
    ("vnet_promise12", ["VolSize=[32,16,48]", "batch_size=3"], (3, 1, 32, 16, 48)),
    ("unet3d_brain", ["micro_batches=2"], (2, 4, 240, 240, 155)),
    ("unet3d_brain", ["target_size=[32,16,7]"], (1, 4, 32, 16, 7)),
])
def test_shape_of_a_batch(name, overrides, shape):
    assert worker.input_shape(load_recipe(name, overrides=overrides)) == shape


def test_random_batches_repeat_and_differ_between_ranks():
    recipe = load_recipe("unet2d_em", overrides=SMALL)
    (image, label), (again, _) = itertools.islice(worker.random_batches(recipe, (2, 1, 48, 64), 0), 2)
    assert image.shape == (2, 1, 48, 64) and label.shape == (2, 48, 64)
    assert image.dtype == label.dtype == np.float32 and image is again
    assert set(np.unique(label)) == {0, 1} and abs(image.mean()) < 0.05 and abs(image.std() - 1) < 0.05
    other, _ = next(worker.random_batches(recipe, (2, 1, 48, 64), 1))
    assert not np.array_equal(image, other)


class OneConvolution(nn.Cell):
    """Stand-in for a U-Net with two logits."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, has_bias=True)

    def construct(self, x):
        return self.conv(x)


def test_a_training_step_learns_and_a_prediction_is_a_probability():
    recipe = load_recipe("unet2d_em", overrides=[*SMALL, "lr=0.01", "loss=bce"])
    ms.set_seed(1)
    network = OneConvolution()
    image, _ = next(worker.random_batches(recipe, (2, 1, 48, 64), 0))
    label = (image[:, 0] > 0).astype(np.float32)
    before = network.conv.weight.asnumpy().copy()
    step = worker.train_iteration(network, recipe, Backend("CPU"))
    results = [step(image, label) for _ in range(5)]
    assert all(applied for _, applied in results) and results[-1][0] < results[0][0]
    assert not np.array_equal(network.conv.weight.asnumpy(), before)
    mean, _ = worker.infer_iteration(network, recipe, Backend("CPU"))(image, label)
    assert 0 < mean < 1


def test_warm_up_is_not_among_the_timed_iterations(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(worker.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(worker.time, "process_time", lambda: 7.0)
    calls = []
    job = Job("infer", "graph", "fp32", 1, 2, {}, warmup=2, iterations=3)
    seconds, processor, results = worker._time(job, lambda image, label: calls.append(image) or len(calls),
                                               itertools.repeat((0, 1)), Backend("CPU"))
    assert seconds == [1.0] * 5 and processor == [0.0] * 5 and results == [1, 2, 3, 4, 5]


def test_half_precision_on_cpu_is_measured_though_training_refuses_it(monkeypatch):
    seen = []
    monkeypatch.setattr(worker, "create_backend",
                        lambda target, device, distribute, ranks, recipe: seen.append(recipe) or Backend(target))
    recipe = load_recipe("unet2d_em", overrides=["amp_level=O2"])
    backend, notes = worker._make_backend(Job("train", "graph", "O2", 1, 1, plain(recipe)), recipe)
    assert seen[0]["amp_level"] == "O0" and (backend.amp_level, backend.loss_scaling) == ("O2", "dynamic")
    assert notes and notes[0].startswith("fp16 on CPU")
    recipe = load_recipe("unet2d_em", overrides=["amp_level=O2", "loss_scaling=fixed"])
    job = Job("train", "graph", "O2", 1, 1, plain(recipe))
    assert worker._make_backend(job, recipe)[0].loss_scaling == "fixed"
    gpu = Job("train", "graph", "O2", 1, 1, plain(recipe), "GPU")
    assert worker._make_backend(gpu, recipe)[0].amp_level == "O0", "the back end's own choice stands"
    assert seen[-1]["amp_level"] == "O2"


def test_a_job_from_its_folder_to_its_answer(tmp_path, monkeypatch):
    recipe = plain(load_recipe("unet2d_em", overrides=SMALL))
    write_json(tmp_path / "job.json", asdict(Job("infer", "eager", "fp32", 1, 2, recipe, warmup=1, iterations=2)))
    chosen = []
    monkeypatch.setattr(worker, "set_execution", lambda *settings: chosen.append(settings))
    monkeypatch.setattr(worker, "create_backend", lambda *_: Backend("CPU"))
    monkeypatch.setattr(worker, "build_network", lambda *_: OneConvolution())
    worker.work(tmp_path)
    answer = json.loads((tmp_path / "rank0.json").read_text())
    assert chosen == [("CPU", True, False)]
    assert answer["input_shape"] == [2, 1, 48, 64] and answer["parameters"] == 2 * 9 + 2
    assert len(answer["seconds"]) == len(answer["cpu_seconds"]) == 2 and min(answer["seconds"]) > 0
    assert answer["peak_memory_mib"] > 10 and answer["notes"] == [] and "losses" not in answer

    def break_down(*_):
        raise RuntimeError("\n----------\nConv2D does not support this\nmore")

    monkeypatch.setattr(worker, "build_network", break_down)
    with pytest.raises(UserError, match="cannot run: RuntimeError: Conv2D does not support this$"):
        worker.work(tmp_path)


def test_real_batches_are_those_of_training(tmp_path):
    make_em(tmp_path, slices=3, size=64)
    recipe = load_recipe("unet2d_em", overrides=["image_size=[64,64]", "batch_size=2"])
    job = Job("train", "graph", "fp32", 1, 2, plain(recipe), data_path=str(tmp_path))
    batches = list(itertools.islice(worker.real_batches(job, recipe, Backend("CPU")), 3))  # more than an epoch
    assert [image.shape for image, _ in batches] == [(2, 1, 64, 64)] * 3
    assert set(np.unique(batches[0][1])) == {0, 1}
