"""Steps of several micro-batches on one device, and the same on two ranks as processes of their own."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pandas as pd
import pytest
from mindspore import Tensor, ops

from src.backend import Backend
from src.checkpoint import list_checkpoints, load_checkpoint
from src.errors import UserError
from src.losses import build_loss
from src.networks import UNet3d
from src.ops import select
from src.overrides import load_recipe
from src.training.pipeline import MicroBatchStep, build_single_step
from src.training.train_step import TrainStep
from tests.data.test_brain_tumour import write_nifti
from tests.training import pipeline_worker
from tests.training.ranks import ROOT, run_on_ranks

SIZE = pipeline_worker.SIZE


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


def test_the_update_is_by_the_mean_gradient_of_the_micro_batches(kernels_in_use):
    recipe = load_recipe("unet3d_brain", overrides=["micro_batches=3", "optimizer=sgd", "momentum=0"])
    image, label = pipeline_worker.batch(3)
    ms.set_seed(1)
    network = pipeline_worker.TwoBlocks()
    network.set_train(True)
    start = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    loss = build_loss({"loss": "bce"})

    def forward(image: Tensor, label: Tensor) -> Tensor:
        return loss(network(image), label)

    both = ops.value_and_grad(forward, None, network.trainable_params())
    found = [both(Tensor(image[i:i + 1]), Tensor(label[i:i + 1])) for i in range(3)]
    found = [(value.asnumpy().copy(), [g.asnumpy().copy() for g in gradients]) for value, gradients in found]
    statistics = {p.name: p.asnumpy().copy() for p in network.get_parameters() if not p.requires_grad}
    for parameter in network.get_parameters():
        parameter.set_data(Tensor(start[parameter.name]))

    step = MicroBatchStep(network, loss, recipe)
    step.set_train(True)
    value, applied, norm, scale = (v.asnumpy().item() for v in step(Tensor(image), Tensor(label),
                                                                   Tensor(0.5, ms.float32)))
    assert value == pytest.approx(np.mean([value for value, _ in found]), rel=1e-5)
    assert (applied, scale) == (True, 1.0)
    squares = 0.0
    for number, parameter in enumerate(network.trainable_params()):
        mean = np.mean([gradients[number] for _, gradients in found], axis=0)
        squares += float((mean.astype(np.float64)**2).sum())
        np.testing.assert_allclose(parameter.asnumpy(), start[parameter.name] - 0.5 * mean, atol=1e-5)
    assert norm == pytest.approx(np.sqrt(squares), rel=1e-4)
    for parameter in network.get_parameters():
        if not parameter.requires_grad:  # each micro-batch counts once
            np.testing.assert_allclose(parameter.asnumpy(), statistics[parameter.name], rtol=1e-3, atol=1e-5)


def test_clipping_and_a_gradient_that_is_no_number(kernels_in_use):
    recipe = load_recipe("unet3d_brain", overrides=["micro_batches=2", "optimizer=sgd", "momentum=0", "grad_clip=0.01"])
    image, label = pipeline_worker.batch(2)
    step = MicroBatchStep(pipeline_worker.TwoBlocks(), build_loss({"loss": "bce"}), recipe)
    step.set_train(True)
    start = {p.name: p.asnumpy().copy() for p in step.own.trainable_params()}
    norm = step(Tensor(image), Tensor(label), Tensor(1.0, ms.float32))[2].asnumpy().item()
    assert norm > 0.01  # before clipping
    moved = sum(float(((p.asnumpy() - start[p.name])**2).sum()) for p in step.own.trainable_params())
    assert np.sqrt(moved) == pytest.approx(0.01, rel=1e-2)
    now = {p.name: p.asnumpy().copy() for p in step.own.trainable_params()}
    image[0, 0, 0, 0, 0] = np.nan
    _, applied, norm, _ = (v.asnumpy().item() for v in step(Tensor(image), Tensor(label), Tensor(1.0, ms.float32)))
    assert not applied
    assert np.isnan(norm)
    assert all(np.array_equal(p.asnumpy(), now[p.name]) for p in step.own.trainable_params())


def test_which_step_a_recipe_gets():
    recipe = load_recipe("unet3d_brain")
    loss = build_loss({"loss": "bce"})
    assert isinstance(build_single_step(UNet3d(), loss, recipe, Backend("CPU")), TrainStep)
    several = load_recipe("unet3d_brain", overrides=["micro_batches=2"])
    assert isinstance(build_single_step(UNet3d(), loss, several, Backend("CPU")), MicroBatchStep)
    with pytest.raises(UserError, match="micro_batches=2 with parallel=data on 2 ranks"):
        build_single_step(UNet3d(), loss, several, Backend("CPU", world_size=2))
    with pytest.raises(UserError, match="amp_level O2 .* expected O0"):
        build_single_step(UNet3d(), loss, several, Backend("Ascend", amp_level="O2"))


def test_names_are_those_of_one_device():
    """A checkpoint fits one device and two; what the ranks hold together is what one holds."""
    recipe = load_recipe("unet3d_brain")
    alone = {p.name for p in TrainStep(UNet3d(), build_loss({"loss": "bce"}), recipe, Backend("CPU")).get_parameters()}
    halves = [{p.name for p in MicroBatchStep(UNet3d(), build_loss({"loss": "bce"}), recipe, rank, 6).get_parameters()}
              for rank in range(2)]
    assert halves[0] | halves[1] == alone
    assert {name for name in halves[0] & halves[1] if "coder" in name} == set()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What each of two connected processes found, see pipeline_worker.py."""
    folder = tmp_path_factory.mktemp("pipeline")
    pipeline_worker.start_both(folder)
    return [pickle.loads((folder / f"rank{rank}.pickle").read_bytes()) for rank in range(2)]


@pytest.fixture(scope="module")
def one_device(library) -> dict[int, dict[str, np.ndarray]]:
    """The same on one device, by one thread as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "_library", library)
        patch.setattr(select, "_decided", True)
        ms.set_context(mode=ms.GRAPH_MODE)
        library.set_threads(1)
        found = {split: pipeline_worker.train(None, 0, 0, split == pipeline_worker.SPLITS[1])
                 for split in pipeline_worker.SPLITS}
        library.set_threads(2)
    return found


@pytest.mark.parametrize("split", pipeline_worker.SPLITS)
def test_two_ranks_equal_one_device(ranks, one_device, split):
    """Weights, moving statistics, losses and norms after three steps."""
    expected = one_device[split]
    for found in ranks:
        assert found[split].keys() == expected.keys()
        worst = max(float((np.abs(found[split][name] - expected[name]) / np.maximum(1, np.abs(expected[name]))).max())
                    for name in expected)
        print(f"split {split}: largest difference of any weight, statistic, loss or norm: {worst:.2e}")
        assert worst < 1e-5
    assert expected["losses"][-1] < expected["losses"][0]


@pytest.fixture
def data(tmp_path) -> Path:
    """Three cases whose label shows in the image."""
    rng = np.random.default_rng(2)
    for number in range(3):
        label = np.zeros(SIZE, np.uint8)
        label[4:10, 3:9, 2:6] = 1 + number
        image = rng.integers(1, 300, (4, *SIZE)) + 500 * (label > 0)
        write_nifti(tmp_path / f"imagesTr/BRATS_{number}.nii.gz", image.astype(np.int16))
        write_nifti(tmp_path / f"labelsTr/BRATS_{number}.nii.gz", label)
    (tmp_path / "train.csv").write_text("BRATS_0.nii.gz\nBRATS_1.nii.gz\n")
    (tmp_path / "val.csv").write_text("BRATS_2.nii.gz\n")
    return tmp_path


def train_arguments(data: Path, run: Path, *more: str) -> list[object]:
    return [ROOT / "train.py", "--recipe", "unet3d_brain", "--data_path", data, "--train_split_file_path",
            data / "train.csv", "--run_dir", run, "--set", "micro_batches=2", "lr=0.01", "optimizer=sgd", *more]


def run_python(*arguments: object) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, text=True, capture_output=True, timeout=200,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "GLOG_v": "3"})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_training_on_two_ranks_then_on_one(data, tmp_path):
    """The whole way: train.py on two ranks, resumed on one device, evaluated. The split is given: measuring one takes
    longer than all else here."""
    run = tmp_path / "run"
    run_on_ranks(2, [*train_arguments(data, run, "epochs=2", "pipeline_split=5"), "--run_distribute", "1",
                     "--device_num", "2"], tmp_path)
    names = load_checkpoint(list_checkpoints(run / "ckpt")[-1]).parameters.keys()
    assert names >= {p.name for p in UNet3d().get_parameters()}
    text = (run / "train_rank1.log").read_text()
    assert re.search(r"epoch: 2 pipeline rank 1: busy \d+ % of the time in steps, [\d.]+ MB sent a step", text)

    run_python(ROOT / "train.py", "--resume", run, "--epochs", "3")
    history = pd.read_csv(run / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["loss"].is_monotonic_decreasing
    assert history["val_dice"].between(0, 1).all()
    assert "epoch: 3 step: 1, loss is 0." in (run / "train.log").read_text()
    output = run_python(ROOT / "eval.py", "--ckpt_path", run / "ckpt" / "best.ckpt", "--data_path", data,
                        "--eval_split_file_path", data / "val.csv")
    assert re.search(r"avg_dice: 0\.\d{4}", output)
    assert (run / "results" / "prediction" / "BRATS_2_test.mhd").is_file()
