"""quickstart.sh, and the virtual environment that it shares with test.sh, in a copied tree with a stand-in Python."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.scripts.conftest import BASH, REPO, write_program

# Makes "environments" with itself as Python, "installs", and leaves the files the entry scripts would.
_STAND_IN = f"""#!{sys.executable} -SE
import json, os, pathlib, shutil, sys
argv = sys.argv[1:]
if argv[0] == "-c":
    os.execv({sys.executable!r}, [{sys.executable!r}, *argv])
if argv in (["-m", "pip", "--version"], ["-m", "src.ops.build"]):
    sys.exit(0)
if argv == ["--version"]:
    sys.exit(print("Python 3.11 stand-in"))
with open(os.environ["STAND_IN_RECORD"], "a") as record:
    record.write(json.dumps(argv) + "\\n")
if argv[:2] == ["-m", "venv"]:
    (pathlib.Path(argv[2]) / "bin").mkdir()
    shutil.copy(sys.argv[0], pathlib.Path(argv[2]) / "bin/python")
    sys.exit(0)
run = pathlib.Path("runs/quickstart")
outputs = {{"train.py": ["recipe.json", "ckpt/best.ckpt"],
           "eval.py": ["summary.json", "report.html", "results/prediction/Case01_test.mhd"],
           "export.py": ["vnet_bundle/model.mindir"], "predict.py": ["unseen/Case29_test.mhd"]}}
summary = {{"dice": {{"mean": 0.87654}}, "hausdorff": {{"mean": 4.321}}}}
name = "pip" if argv[0] == "-m" else os.path.basename(argv[0])
if name == os.environ.get("STAND_IN_KILL"):
    if name == "train.py":
        run.mkdir(parents=True)
        (run / "recipe.json").touch()
    os.kill(os.getppid(), 9)
if name == os.environ.get("STAND_IN_FAILING"):
    sys.exit(5)
for output in outputs.get(name, []):
    (run / output).parent.mkdir(parents=True, exist_ok=True)
    (run / output).write_text(json.dumps(summary))
"""

STEPS = ["train.py", "eval.py", "export.py", "predict.py"]


@dataclass
class Clone:
    """A copy of the scripts in a folder of its own, with the stand-in as `PYTHON`."""

    folder: Path
    environment: dict[str, str]

    def start(self, script: str = "quickstart.sh", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([BASH, str(self.folder / "scripts" / script)], cwd="/", check=False, capture_output=True,
                              text=True, timeout=60, env={**self.environment, **environment})

    def calls(self) -> list[list[str]]:
        """The recorded calls since the last time, by their arguments."""
        record = Path(self.environment["STAND_IN_RECORD"])
        lines = record.read_text().splitlines() if record.exists() else []
        record.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def steps(self) -> list[str]:
        return [" ".join(argv[:2]) if argv[0] == "-m" else argv[0] for argv in self.calls()]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    folder = tmp_path / "a clone"
    shutil.copytree(REPO / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data/sample").mkdir(parents=True)
    (folder / "data/sample/unseen.csv").write_text("Case29.mhd\n")
    for name in (path.name for path in REPO.glob("requirements*.txt")):
        (folder / name).write_text(f"content of {name}\n")
    write_program(tmp_path / "python", _STAND_IN)
    environment = {name: value for name, value in os.environ.items() if name not in ("VENV", "TQDM_DISABLE")}
    return Clone(folder, environment | {"PYTHON": str(tmp_path / "python"),
                                        "STAND_IN_RECORD": str(tmp_path / "record.jsonl")})


def test_quick_start_runs_every_step_and_prints_the_result(clone: Clone) -> None:
    done = clone.start()
    assert done.returncode == 0, done.stderr
    calls = clone.calls()
    assert [argv[0] for argv in calls] == ["-m", "-m", *STEPS]
    assert calls[2][1:] == ["--config", "configs/quickstart.json", "--device_target", "CPU", "--data_path",
                            "data/sample", "--train_split_file_path", "data/sample/train.csv",
                            "--val_split_file_path", "data/sample/val.csv", "--run_dir", "runs/quickstart"]
    assert "data/sample/img/Case29.mhd" in calls[5]
    result = done.stdout.splitlines()[-5:]
    assert result[0].startswith("dice=0.8765 hausdorff=4.32 seconds=")
    assert [line.split()[0] for line in result[1:]] == ["checkpoint", "masks", "bundle", "report"]
    assert "\x1b" not in done.stdout + done.stderr


def test_second_start_says_that_it_is_done(clone: Clone) -> None:
    first = clone.start()
    clone.calls()
    second = clone.start()
    assert second.returncode == 0
    assert clone.calls() == []
    assert "done" in second.stdout
    assert second.stdout.splitlines()[-5:] == first.stdout.splitlines()[-5:]


def test_start_after_a_kill_in_training_resumes(clone: Clone) -> None:
    assert clone.start(STAND_IN_KILL="train.py").returncode == -9
    clone.calls()
    done = clone.start()
    assert done.returncode == 0, done.stderr
    calls = clone.calls()
    assert calls[0] == ["train.py", "--resume", "runs/quickstart", "--data_path", "data/sample"]
    assert [argv[0] for argv in calls] == STEPS


@pytest.mark.parametrize("failing", STEPS)
def test_failing_step_ends_the_quick_start_with_its_exit_code(clone: Clone, failing: str) -> None:
    done = clone.start(STAND_IN_FAILING=failing)
    assert done.returncode == 5
    assert "dice=" not in done.stdout
    assert clone.steps()[2:] == STEPS[:STEPS.index(failing) + 1]


def test_missing_output_is_made_again(clone: Clone) -> None:
    clone.start()
    shutil.rmtree(clone.folder / "runs/quickstart/vnet_bundle")
    clone.calls()
    assert clone.start().returncode == 0
    assert clone.steps() == STEPS


def test_environment_is_made_once_and_refilled_when_requirements_change(clone: Clone) -> None:
    clone.start()
    assert clone.steps()[:2] == ["-m venv", "-m pip"]
    (clone.folder / "runs/quickstart/quickstart.txt").unlink()
    clone.start()
    assert clone.steps() == STEPS
    (clone.folder / "runs/quickstart/quickstart.txt").unlink()
    (clone.folder / "requirements.txt").write_text("another version\n")
    clone.start()
    assert clone.steps() == ["-m pip", *STEPS]


def test_environment_of_a_killed_install_is_made_anew(clone: Clone) -> None:
    assert clone.start(STAND_IN_KILL="pip").returncode == -9
    assert clone.steps() == ["-m venv", "-m pip"]
    done = clone.start()
    assert done.returncode == 0, done.stderr
    assert "cut short" in done.stdout
    assert clone.steps() == ["-m venv", "-m pip", *STEPS]


def test_failing_install_is_tried_again(clone: Clone) -> None:
    failed = clone.start(STAND_IN_FAILING="pip")
    assert failed.returncode == 1
    assert "error: pip could not install requirements.txt" in failed.stderr
    clone.calls()
    assert clone.start().returncode == 0
    assert clone.steps() == ["-m pip", *STEPS]


def test_folder_of_someone_else_is_left_alone(clone: Clone, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.txt").write_text("years of work")
    done = clone.start(VENV=str(tmp_path / "precious"))
    assert done.returncode == 1
    assert "was not made by these scripts" in done.stderr
    assert (tmp_path / "precious/thesis.txt").exists()


@pytest.mark.parametrize(("answer", "message"), [
    ("echo 3.9", "found no Python 3.11 or 3.12"),
    ('case "$2" in *version_info*) echo 3.11;; *) exit 1;; esac', "apt-get install python3-venv"),
])
def test_unfit_python_is_refused(clone: Clone, tmp_path: Path, answer: str, message: str) -> None:
    write_program(tmp_path / "unfit", f"#!{BASH}\n{answer}\n")
    done = clone.start(PYTHON=str(tmp_path / "unfit"))
    assert done.returncode == 1
    assert message in done.stderr
    assert not (clone.folder / ".venv").exists()


def test_test_command_runs_every_check_and_fails_if_one_does(clone: Clone) -> None:
    clone.start("test.sh")
    clone.calls()
    write_program(clone.folder / ".venv/bin/ruff", f"#!{BASH}\nexit 1\n")
    write_program(clone.folder / ".venv/bin/mypy", f"#!{BASH}\nexit 0\n")
    done = clone.start("test.sh")
    assert done.returncode == 1
    assert [call[:2] for call in clone.calls()] == [["-m", "pytest"]]
    assert done.stderr.splitlines()[-1] == "failed: ruff"
    write_program(clone.folder / ".venv/bin/ruff", f"#!{BASH}\nexit 0\n")
    assert clone.start("test.sh").returncode == 0
