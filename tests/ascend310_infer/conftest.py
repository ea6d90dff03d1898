"""The C++ program, built once, and an exported network for it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import mindspore as ms
import pytest

from src.backend import create_backend
from src.checkpoint import save_checkpoint
from src.inference.bundle import Bundle, read_bundle
from src.inference.export import export_checkpoint
from src.networks import build_network
from src.overrides import load_recipe, plain

SOURCE = Path(__file__).parent.parent.parent / "ascend310_infer"
DEBIAN = "apt-get install g++ make libgflags-dev doctest-dev cppcheck"

Build = Callable[..., tuple[Path, str]]


def need(*programs: str) -> None:
    """Skip the test where a program is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed; pip install -r requirements-cpp.txt, and on Debian: {DEBIAN}")


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    # CMake looks for packages where $PYTHON has them.
    return subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True, timeout=1500,
                          env={**os.environ, "PYTHON": sys.executable, **environment})


def build_program(folder: Path, *options: str, **environment: str) -> str:
    """Build the program into `folder`, and return what CMake found. Skips the test where a tool is missing."""
    need("cmake", "c++")
    found = run("cmake", "-S", SOURCE, "-B", folder, *options, **environment)
    if found.returncode and "gflags" in found.stderr:
        pytest.skip(f"gflags is not installed; on Debian: {DEBIAN}")
    assert found.returncode == 0, found.stderr
    built = run("cmake", "--build", folder, "--parallel", "2")
    assert built.returncode == 0, built.stdout + built.stderr
    return found.stdout


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> tuple[Path, str]:
    """The folder of the program and its tests, with what CMake found."""
    folder = tmp_path_factory.mktemp("built") / "with space"
    # A MindSpore of this machine is for test_mindspore.py.
    return folder, build_program(folder, "-DMINDSPORE_PATH=/none", MINDSPORE_PATH="")


@pytest.fixture(scope="session")
def program(built) -> Path:
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed; pip install -r requirements-cpp.txt")
    return built[0] / "main"


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory) -> Path:
    """A small V-Net with random weights, as the trainer stores it."""
    create_backend("CPU")
    ms.set_seed(1)
    recipe = load_recipe(overrides=["base_channels=2", "VolSize=[32,32,16]", "dstRes=[1.5,1.5,1.5]"])
    path = tmp_path_factory.mktemp("trained") / "checkpoint_vnet-1_1.ckpt"
    save_checkpoint(path, build_network(recipe), {"recipe_name": "vnet_promise12", "recipe": plain(recipe), "epoch": 1,
                                                  "step": 1, "train_names": ["Case01.mhd"]})
    return path


@pytest.fixture(scope="session")
def bundle(checkpoint_path, tmp_path_factory) -> Bundle:
    """Its ONNX, with a real case and the checkpoint's answer to it."""
    folder = tmp_path_factory.mktemp("exported") / "with space é"
    return read_bundle(export_checkpoint(checkpoint_path, str(folder / "vnet"), ("ONNX",)))
