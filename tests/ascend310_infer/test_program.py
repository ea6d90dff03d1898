"""The C++ program as people start it, on a CPU, and the tests that ctest runs of its parts."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from src.inference.predictor import OnnxPredictor
from tests.ascend310_infer.conftest import DEBIAN, SOURCE, need, run


def test_ctest_passes(built):
    folder, found = built
    if "tests: left out" in found:
        pytest.skip(f"doctest is not installed; on Debian: {DEBIAN}")
    done = run("ctest", "--test-dir", folder, "--output-on-failure")
    assert done.returncode == 0, done.stdout
    # The closing line's words changed between CMake 3 and 4; this listing has a version of its own.
    listed = json.loads(run("ctest", "--test-dir", folder, "--show-only=json-v1").stdout)
    assert len(listed["tests"]) >= 25


def test_cppcheck_finds_nothing():
    need("cppcheck")
    done = run("cppcheck", "--std=c++17", "--language=c++", "--enable=warning,style,performance,portability",
               "--inline-suppr", "--suppress=missingIncludeSystem", "--error-exitcode=1", "--quiet",
               "-DWITH_OPENVINO", "-DWITH_MINDSPORE", "-I", SOURCE / "src", SOURCE / "src")
    assert done.returncode == 0, done.stderr


def test_mindspore_that_is_set_after_a_first_build_is_found(tmp_path):
    need("cmake", "c++")
    for name in ("include/api/model.h", "lib/libmindspore.so"):
        path = tmp_path / "mindspore" / name
        path.parent.mkdir(parents=True)
        path.touch()
    configure = ("cmake", "-S", SOURCE, "-B", tmp_path / "build")
    if (first := run(*configure, MINDSPORE_PATH="")).returncode:
        pytest.skip(f"cmake fails here: {first.stderr}")
    for setting in (str(tmp_path / "mindspore"), ""):  # and stays known
        assert f"Ascend310: MindSpore in {tmp_path / 'mindspore'}\n" in run(*configure, MINDSPORE_PATH=setting).stdout


def test_fetch_script_passes_shellcheck():
    need("shellcheck")
    done = run("shellcheck", *SOURCE.glob("*.sh"))
    assert done.returncode == 0, done.stdout


@pytest.fixture
def place(tmp_path: Path, bundle) -> Path:
    """A folder with the bundle's real case, and its mirrored copy, as bins."""
    image, _ = bundle.golden()
    (tmp_path / "bins").mkdir()
    image.astype("<f4").tofile(tmp_path / "bins" / "Case00.bin")
    image[..., ::-1, :, :].astype("<f4").tofile(tmp_path / "bins" / "Case01.bin")
    (tmp_path / "bins" / "cases.json").write_text("{}")
    return tmp_path


@pytest.fixture
def start(program, bundle, place):
    """Start the program on `place`, and return what it says; arguments replace those it would have."""
    def started(**changes: object):
        arguments = {"mindir_path": bundle.folder / "model.onnx", "input_path": place / "bins",
                     "output_path": place / "result_Files", "time_path": place / "time_Result", "device": "CPU",
                     **changes}
        return run(program, *(f"--{name}={value}" for name, value in arguments.items() if value is not None))

    return started


def test_real_case_gets_the_checkpoints_answer(start, bundle, place):
    done = start()
    assert done.returncode == 0, done.stderr
    image, expected = bundle.golden()
    answers = [np.fromfile(place / "result_Files" / f"Case0{k}_0.bin", "<f4").reshape(expected.shape) for k in (0, 1)]
    np.testing.assert_allclose(answers[0], expected, rtol=0, atol=1e-4)
    mirrored = OnnxPredictor(bundle.folder / "model.onnx", image.shape).predict_batch(image[..., ::-1, :, :])
    np.testing.assert_allclose(answers[1], mirrored, rtol=0, atol=1e-4)
    assert np.abs(answers[0] - answers[1]).max() > 1e-3  # the second is not the first once more
    assert sorted(path.name for path in (place / "result_Files").iterdir()) == ["Case00_0.bin", "Case01_0.bin"]
    line = (place / "time_Result" / "test_perform_static.txt").read_text()
    found = re.fullmatch(r"NN inference cost average time: ([\d.]+) ms of infer_count 2\n", line)
    with (place / "time_Result" / "cases.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["case"] for row in rows] == ["Case00", "Case01"]
    assert float(found[1]) == pytest.approx(sum(float(row["network_ms"]) for row in rows) / 2, abs=2e-3)
    assert line in done.stdout


def test_model_path_is_another_name(start, bundle, place):
    done = start(mindir_path=None, model_path=bundle.folder / "model.onnx")
    assert done.returncode == 0, done.stderr
    assert (place / "result_Files" / "Case00_0.bin").is_file()


def test_wrong_sizes_are_told_at_once_and_nothing_is_replaced(start, place):
    (place / "result_Files").mkdir()
    (place / "result_Files" / "Case00_0.bin").write_text("earlier")
    for name in ("Case02", "Case03"):
        (place / "bins" / f"{name}.bin").write_bytes(b"\0" * 12)
    done = start()
    assert done.returncode == 2
    assert "2 problems" in done.stderr
    for name in ("Case02", "Case03"):
        assert f"{place}/bins/{name}.bin: has 12 bytes, expected {32 * 32 * 16 * 4} for the model's" in done.stderr
    assert [path.read_text() for path in (place / "result_Files").iterdir()] == ["earlier"]


def test_damaged_values_fail_their_case_alone(start, place):
    values = np.fromfile(place / "bins" / "Case01.bin", "<f4")
    values[7] = np.nan
    values.tofile(place / "bins" / "Case01.bin")
    done = start()
    assert done.returncode == 2
    assert f"Case01.bin: the input has NaN or infinity in 1 of {values.size} values" in done.stderr
    assert [path.name for path in (place / "result_Files").iterdir()] == ["Case00_0.bin"]
    assert list((place / "time_Result").iterdir()) == []


MISTAKES = {
    "no model": ({"mindir_path": "/none/net.onnx"}, "/none/net.onnx: no such file"),
    "neither model": ({"mindir_path": None}, "either --mindir_path or --model_path"),
    "both models": ({"model_path": "net.onnx"}, "either --mindir_path or --model_path"),
    "no folder": ({"input_path": "/none"}, "/none: cannot be read as a folder"),
    "no input": ({"input_path": None}, "--input_path"),
    "empty folder": ({"input_path": "{place}/empty"}, "/empty: holds no .bin file"),
    "unwritable output": ({"output_path": "/proc/self"}, "/proc/self: cannot be written to"),
    "unwritable times": ({"time_path": "{place}/bins/Case00.bin"}, "Case00.bin: cannot be made as a folder"),
    "same folder": ({"output_path": "{place}/bins"}, "/bins: is the folder of the inputs too"),
    "no ONNX": ({"mindir_path": "{place}/bins/Case00.bin"}, "Case00.bin: OpenVINO "),
    "unknown device": ({"device": "TPU"}, "--device is 'TPU', expected Ascend310 or CPU"),
    "device left out": ({"device": "Ascend310"}, "model.onnx: --device Ascend310 is not in this program"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_with_a_message_that_names_the_file(start, place, name):
    changes, message = MISTAKES[name]
    (place / "empty").mkdir()
    done = start(**{key: value and value.format(place=place) for key, value in changes.items()})
    assert done.returncode == 2
    assert re.search(f"^error: .*{re.escape(message)}", done.stderr, re.MULTILINE)  # OpenVINO may log lines before


def test_unknown_options_and_help(program):
    unknown = run(program, "--mindir", "x")
    assert (unknown.returncode, "unknown command line flag 'mindir'" in unknown.stderr) == (1, True)
    positional = run(program, "net.mindir")
    assert (positional.returncode, "'net.mindir' is no --option" in positional.stderr) == (2, True)
    helped = run(program, "--help")
    assert helped.returncode == 0
    for option in ("mindir_path", "input_path", "output_path", "time_path", "device", "device_id"):
        assert f"-{option} (" in helped.stdout
    assert "tab_completion" not in helped.stdout  # gflags' own


def test_result_in_the_present_folder_and_a_copied_model(start, bundle, place, monkeypatch):
    monkeypatch.chdir(place)
    shutil.copy(bundle.folder / "model.onnx", "net.onnx")
    done = start(mindir_path="net.onnx", input_path="bins", output_path=None, time_path=None)
    assert done.returncode == 0, done.stderr
    assert Path("result_Files/Case01_0.bin").is_file()
    assert Path("time_Result/test_perform_static.txt").is_file()
