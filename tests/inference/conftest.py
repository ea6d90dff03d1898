"""A tiny checkpoint and its bundle, made once: compiling a V-Net takes seconds."""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.backend import Backend, create_backend
from src.checkpoint import save_checkpoint
from src.inference.bundle import Bundle, read_bundle
from src.inference.export import export_checkpoint
from src.inference.golden import SAMPLE_DATA
from src.inference.predictor import NetworkPredictor, load_checkpoint_predictor
from src.networks import build_network
from src.overrides import load_recipe, plain

OVERRIDES = ["base_channels=2", "VolSize=[32,32,32]", "dstRes=[1.5,1.5,1.5]"]
CLASSES_OVERRIDES = ["base_channels=2", "VolSize=[16,16,16]", "dstRes=[2,2,2]", "patches=true", "window_overlap=0.25"]


@pytest.fixture(scope="session", autouse=True)
def backend() -> Backend:
    """Graph mode, as in every entry script."""
    return create_backend("CPU")


@pytest.fixture(scope="module", autouse=True)
def as_in_entry_scripts(backend) -> None:
    """Graph mode and the kernels again, which each module leaves behind."""
    create_backend("CPU")


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory) -> Path:
    """A V-Net with random weights and random moving statistics, in the state that the trainer stores."""
    ms.set_seed(1)
    recipe = load_recipe(overrides=OVERRIDES)
    network = build_network(recipe)
    rng = np.random.default_rng(1)
    for parameter in network.get_parameters():
        if "moving" in parameter.name:
            low, high = (0.5, 2.0) if "variance" in parameter.name else (-0.3, 0.3)
            parameter.set_data(Tensor(rng.uniform(low, high, parameter.shape), ms.float32))
    path = tmp_path_factory.mktemp("trained") / "checkpoint_vnet-7_3.ckpt"
    save_checkpoint(path, network, {
        "recipe_name": "vnet_promise12", "recipe": plain(recipe), "epoch": 7, "step": 21, "best_dice": 0.5,
        "data_path": str(SAMPLE_DATA), "train_names": ["Case00.mhd"], "validation_names": ["Case25.mhd", "Case24.mhd"]})
    return path


@pytest.fixture(scope="session")
def predictor(checkpoint_path) -> NetworkPredictor:
    return load_checkpoint_predictor(checkpoint_path)[0]


@pytest.fixture(scope="session")
def bundle(checkpoint_path, tmp_path_factory) -> Bundle:
    """A bundle with MINDIR and ONNX, in a folder whose name MindSpore's own export refuses."""
    folder = tmp_path_factory.mktemp("exported") / "with space é"
    return read_bundle(export_checkpoint(checkpoint_path, str(folder / "vnet"), ("MINDIR", "ONNX")))


@pytest.fixture(scope="session")
def classes_checkpoint_path(tmp_path_factory) -> Path:
    """A V-Net of three classes for windows of 16 voxels, as the trainer stores it."""
    ms.set_seed(2)
    recipe = load_recipe("vnet_hippocampus", overrides=CLASSES_OVERRIDES)
    path = tmp_path_factory.mktemp("classes") / "checkpoint_vnet-2_5.ckpt"
    save_checkpoint(path, build_network(recipe), {"recipe_name": "vnet_hippocampus", "recipe": plain(recipe),
                                                  "epoch": 2, "step": 10, "train_names": ["Case01.mhd"]})
    return path
