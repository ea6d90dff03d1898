"""run_infer_310.sh with stand-ins for cmake, python3 and the program: the commands that an Ascend machine would run."""

import sys
from pathlib import Path

import pytest

from tests.scripts.conftest import REPO, Workplace, write_program

# Records its call, and fails where FAILING is part of it; cmake's second call brings the program.
STAND_IN = f"""#!{sys.executable} -SE
import json, os, shutil, sys
name = os.path.basename(sys.argv[0])
with open(os.environ["STAND_IN_RECORD"], "a") as stream:
    found = sorted(os.listdir("result_Files")) if os.path.isdir("result_Files") else []
    stream.write(json.dumps({{"program": name, "argv": sys.argv[1:], "result_Files": found,
                             "PYTHON": os.environ.get("PYTHON")}}) + "\\n")
if name == "cmake" and sys.argv[1] == "--build":
    os.makedirs(sys.argv[2], exist_ok=True)
    shutil.copy(sys.argv[0], sys.argv[2] + "/main")
sys.exit(7 if os.environ.get("FAILING", "nothing") in " ".join([name, *sys.argv[1:]]) else 0)
"""
GIVEN = ("out/vnet.mindir", "my data", "my split.csv")


@pytest.fixture
def deployed(workplace: Workplace, tmp_path: Path) -> Workplace:
    """A workplace with an exported model, and stand-ins that know what they are part of."""
    for name in ("python3", "cmake"):
        write_program(workplace.stand_ins / name, STAND_IN)
    bundle = workplace.folder / "out" / "vnet_bundle"
    bundle.mkdir(parents=True)
    (bundle / "recipe.json").write_text("{}")
    (bundle / "model.mindir").write_bytes(b"weights")
    (bundle / "model.onnx").write_bytes(b"the same weights")
    (workplace.folder / "out" / "vnet.mindir").hardlink_to(bundle / "model.mindir")
    workplace.environment |= {"BUILD_DIR": str(tmp_path / "a build"), "ASCEND_TOOLKIT_SCRIPT": "none"}
    workplace.environment.pop("DEVICE_TARGET", None)
    return workplace


def expected_calls(place: Workplace, model: str, target: str, device: str) -> list[list[str]]:
    build, bundle = place.environment["BUILD_DIR"], place.folder / "out" / "vnet_bundle"
    inputs = ["--data_path", str(place.folder / "my data"), "--split_file_path", str(place.folder / "my split.csv")]
    return [
        ["cmake", "-S", str(REPO / "ascend310_infer"), "-B", build, "-DCMAKE_BUILD_TYPE=Release"],
        ["cmake", "--build", build, "--parallel", "--target", "main"],
        ["python3", str(REPO / "preprocess.py"), "--bundle", str(bundle), *inputs, "--output_dir", "preprocess_Result"],
        ["main", "--mindir_path", model, "--input_path", "preprocess_Result", "--output_path", "result_Files",
         "--time_path", "time_Result", "--device", target, "--device_id", device],
        ["python3", str(REPO / "postprocess.py"), *inputs, "--result_path", "result_Files", "--preprocess_dir",
         "preprocess_Result"]]


def calls(place: Workplace) -> list[list[str]]:
    return [[call["program"], *call["argv"]] for call in place.calls()]


def test_commands_on_ascend(deployed: Workplace) -> None:
    done = deployed.run("run_infer_310.sh", *GIVEN, "3", "--output_dir", "scored")
    assert done.returncode == 0, done.stderr
    expected = expected_calls(deployed, str(deployed.folder / "out" / "vnet.mindir"), "Ascend310", "3")
    assert calls(deployed) == [*expected[:4], [*expected[4], "--output_dir", "scored"]]
    assert (deployed.folder / "time_Result").is_dir()
    assert deployed.calls()[0]["PYTHON"] == "python3"  # whose packages CMake looks through


def test_device_0_is_the_default_and_the_bundles_own_model_will_do(deployed: Workplace) -> None:
    model = "out/vnet_bundle/model.mindir"
    done = deployed.run("run_infer_310.sh", model, *GIVEN[1:])
    assert done.returncode == 0, done.stderr
    assert calls(deployed) == expected_calls(deployed, str(deployed.folder / model), "Ascend310", "0")


def test_cpu_runs_the_onnx_of_the_bundle(deployed: Workplace) -> None:
    bundle = deployed.folder / "out" / "vnet_bundle"
    done = deployed.run("run_infer_310.sh", *GIVEN, DEVICE_TARGET="CPU")
    assert done.returncode == 0, done.stderr
    assert calls(deployed) == expected_calls(deployed, str(bundle / "model.onnx"), "CPU", "0")
    (bundle / "model.onnx").unlink()
    done = deployed.run("run_infer_310.sh", *GIVEN, DEVICE_TARGET="CPU")
    assert done.returncode == 1
    assert "model.onnx, which is missing; export with --file_format MINDIR ONNX" in done.stderr


def test_cann_is_made_known_where_it_is_not(deployed: Workplace, tmp_path: Path) -> None:
    script = tmp_path / "set env.sh"
    script.write_text('export PATH=$PATH:$NOT_THERE; echo "CANN is set"\n')
    done = deployed.run("run_infer_310.sh", *GIVEN, ASCEND_TOOLKIT_SCRIPT=str(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("CANN is set\n== configure\n")
    done = deployed.run("run_infer_310.sh", *GIVEN, ASCEND_TOOLKIT_SCRIPT=str(script), ASCEND_HOME_PATH="/somewhere")
    assert "CANN is set" not in done.stdout


@pytest.mark.parametrize(("failing", "name", "number"), [
    ("cmake -S", "configure", 1), ("cmake --build", "build", 2), ("preprocess.py", "preprocess", 3),
    ("main --mindir_path", "inference", 4), ("postprocess.py", "postprocess", 5)])
def test_each_failing_step_ends_it(deployed: Workplace, failing: str, name: str, number: int) -> None:
    done = deployed.run("run_infer_310.sh", *GIVEN, FAILING=failing)
    assert done.returncode == 7
    assert f"error: {name} failed (exit code 7): " in done.stderr
    assert len(calls(deployed)) == number


def test_earlier_answers_are_gone_before_the_model_runs_and_not_sooner(deployed: Workplace) -> None:
    answers = deployed.folder / "result_Files"
    answers.mkdir()
    for name in ("Old_0.bin", "notes.txt"):
        (answers / name).write_text("x")
    deployed.run("run_infer_310.sh", *GIVEN, FAILING="preprocess.py")
    assert (answers / "Old_0.bin").exists()
    assert deployed.run("run_infer_310.sh", *GIVEN).returncode == 0
    assert [call["result_Files"] for call in deployed.calls() if call["program"] == "main"] == [["notes.txt"]]


@pytest.mark.parametrize(("arguments", "environment", "message"), [
    (GIVEN[:2], {}, "found 2 arguments, expected 3 or 4"),
    ((*GIVEN, "0", "1"), {}, "found 5 arguments, expected 3 or 4"),
    (("out/none.mindir", *GIVEN[1:]), {}, "MINDIR_PATH 'out/none.mindir' is no file"),
    ((GIVEN[0], "no data", GIVEN[2]), {}, "DATA_PATH 'no data' is no folder"),
    ((*GIVEN[:2], "no.csv"), {}, "SPLIT_FILE_PATH 'no.csv' is no file"),
    ((*GIVEN, "first"), {}, "DEVICE_ID is 'first'"),
    (GIVEN, {"DEVICE_TARGET": "Ascend"}, "DEVICE_TARGET is 'Ascend', expected Ascend310 or CPU"),
    (("best model.ckpt", *GIVEN[1:]), {}, "best model_bundle is missing"),
    (("out/other.mindir", *GIVEN[1:]), {}, "other_bundle is missing"),
    (("out/vnet_dynamic.mindir", *GIVEN[1:]), {}, "has no fixed shape"),
    (("changed/vnet.mindir", *GIVEN[1:]), {}, "is not the model.mindir of")])
def test_bad_arguments_are_refused(deployed: Workplace, arguments: tuple[str, ...], environment: dict[str, str],
                                   message: str) -> None:
    for name in ("other.mindir", "vnet_dynamic.mindir"):
        (deployed.folder / "out" / name).write_bytes(b"weights")
    (deployed.folder / "changed" / "vnet_bundle").mkdir(parents=True)
    for name in ("vnet.mindir", "vnet_bundle/model.mindir", "vnet_bundle/recipe.json"):
        (deployed.folder / "changed" / name).write_text(name)
    done = deployed.run("run_infer_310.sh", *arguments, **environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert calls(deployed) == []


def test_usage(deployed: Workplace) -> None:
    done = deployed.run("run_infer_310.sh", "--help")
    assert done.returncode == 0
    assert "scripts/run_infer_310.sh MINDIR_PATH DATA_PATH SPLIT_FILE_PATH [DEVICE_ID]" in done.stdout
    assert calls(deployed) == []
