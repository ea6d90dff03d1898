"""The program against MindSpore's own C++ API, where someone has brought its 950 MB wheel. There is no Ascend here."""

import os
import shutil
from pathlib import Path

import pytest
from mindspore.train.mind_ir_pb2 import ModelProto

from src.inference.export import export_checkpoint
from tests.ascend310_infer.conftest import SOURCE, build_program, run


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """The program for Ascend 310, compiled and linked."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    package = Path(os.environ.get("MINDSPORE_PATH") or cache / "vnet-mindspore" / "mindspore-2.0.0")
    if not (package / "include" / "api" / "model.h").is_file():
        pytest.skip(f"no MindSpore with a C++ API in MINDSPORE_PATH or {package}; bash "
                    f"{SOURCE.name}/fetch_mindspore.sh brings it (a download of 950 MB)")
    folder = tmp_path_factory.mktemp("built for Ascend")
    found = build_program(folder, "-DBUILD_TESTING=OFF", "-DCMAKE_DISABLE_FIND_PACKAGE_OpenVINO=ON",
                          MINDSPORE_PATH=str(package))
    assert f"Ascend310: MindSpore in {package}" in found
    return folder / "main"


def python_libraries() -> str:
    """Folders that may hold the libpython3.9 that MindSpore 2.0.0's wheel is linked to."""
    folders = [*map(str, Path.home().glob(".pyenv/versions/3.9.*/lib"))]
    if shutil.which("python3.9"):
        found = run("python3.9", "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))")
        folders.insert(0, found.stdout.strip())
    return os.pathsep.join(filter(None, folders))


def test_compiles_and_links(program):
    needed = run("readelf", "-d", program).stdout
    assert "[libmindspore.so]" in needed


def test_model_is_read_and_the_missing_device_is_told(program, checkpoint_path, tmp_path):
    libraries = {"LD_LIBRARY_PATH": python_libraries()}
    asked = run(program, "--help", **libraries)
    if "libpython3.9" in asked.stderr:
        pytest.skip("MindSpore 2.0.0 needs libpython3.9 to start: it was compiled and linked only")
    assert asked.returncode == 0, asked.stderr
    (tmp_path / "bins").mkdir()
    (tmp_path / "bins" / "Case00.bin").write_bytes(bytes(4 * 32 * 32 * 16))
    export_checkpoint(checkpoint_path, str(tmp_path / "vnet"), ("MINDIR",))
    exported, older, damaged = (tmp_path / f"{name}.mindir" for name in ("vnet", "older", "damaged"))
    # MindSpore 2.0.0 reads no version above 1. Called so it passes the reading, which is enough to see what comes next.
    model = ModelProto()
    model.ParseFromString(exported.read_bytes())
    model.mind_ir_version = 1
    older.write_bytes(model.SerializeToString())
    damaged.write_bytes(older.read_bytes()[:1000])
    for path, message in ((exported, "the maximum mind ir version: 1"),
                          (older, "cannot be built for Ascend device 0"),
                          (damaged, "MindSpore")):
        done = run(program, "--mindir_path", path, "--input_path", tmp_path / "bins", "--output_path",
                   tmp_path / "result_Files", "--time_path", tmp_path / "time_Result", **libraries)
        assert done.returncode == 2, done.stderr
        assert f"error: {path}: " in done.stderr
        assert message in done.stderr
    assert list((tmp_path / "result_Files").iterdir()) == []
