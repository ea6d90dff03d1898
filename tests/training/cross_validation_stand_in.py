"""Stand-ins for `train.py` and `eval.py` that record how they are called and leave what these would leave."""

import importlib
import json
import logging
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import train
from src.data.split import read_split
from src.metrics.cases import METRICS, write_metrics_csv
from src.metrics.promise12 import remove_promise12

CASES = [f"Case{number:02d}.mhd" for number in range(7)]


def row_of(case_id: str, bonus: float = 0.0) -> dict:
    """Case03 has Dice 0.53, all other metrics are its number."""
    number = int(case_id[-2:])
    values = {metric.key: float(number) for metric in METRICS}
    return {"case_id": case_id, **values, "dice": round(0.5 + number / 100 + bonus, 6), "flag": ""}


class StandIn:
    """In place of `subprocess.run`.

    Attributes:
        calls: (script, arguments) of each process.
        exit_codes: by word of a command, such as a run folder's name: the process ends with it before it is done.
        bonus: by part of the output folder's path, what is added to each Dice.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.exit_codes: dict[str, int] = {}
        self.bonus: dict[str, float] = {}

    def __call__(self, command, stdout, **options):
        script, arguments = Path(command[1]).name, command[2:]
        self.calls.append((script, arguments))
        code = next((code for word, code in self.exit_codes.items() if word in " ".join([script, *arguments])), 0)
        {"train.py": self.train, "eval.py": self.evaluate}[script](arguments, code)
        stdout.write(f"the last words of {script}\n\n".encode())
        return subprocess.CompletedProcess(command, code)

    def train(self, arguments, code):
        plan = train.make_plan(train.parse_arguments(arguments))
        plan.save({})
        plan.checkpoint_folder.mkdir(exist_ok=True)
        names = ["checkpoint_vnet-2_3.ckpt"] if code else ["checkpoint_vnet-9_3.ckpt", "checkpoint_vnet-10_3.ckpt"]
        for name in [*names, "best.ckpt"]:
            (plan.checkpoint_folder / name).write_text(f"weights {len(self.calls)}")  # each training leaves others

    def evaluate(self, arguments, code):
        parsed = importlib.import_module("eval").parse_arguments(arguments)
        paths = parsed.ckpt_path if isinstance(parsed.ckpt_path, list) else [parsed.ckpt_path]
        assert all(path.is_file() for path in paths)
        if not code:
            bonus = sum(value for word, value in self.bonus.items() if word in parsed.output_dir.parts)
            remove_promise12(parsed.output_dir)
            write_metrics_csv(parsed.output_dir / "metrics.csv",
                              [row_of(name[:-4], bonus) for name in read_split(parsed.eval_split_file_path)])

    def scripts(self) -> list[str]:
        return [script for script, _ in self.calls]


@pytest.fixture
def processes(monkeypatch) -> StandIn:
    stand_in = StandIn()
    module = SimpleNamespace(run=stand_in, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr("src.training.cross_validation.subprocess", module)
    monkeypatch.setattr(logging.getLogger(), "handlers", [*logging.getLogger().handlers])  # entry scripts set their own
    return stand_in


@pytest.fixture
def given(tmp_path) -> dict[str, Path]:
    """Arguments of `plan_cross_validation` that all tests share."""
    (tmp_path / "data").mkdir()
    (tmp_path / "all.csv").write_text("".join(f"{name}\n" for name in CASES))
    return {"data_path": tmp_path / "data", "split_path": tmp_path / "all.csv", "output": tmp_path / "cv"}


def put_cases(folder: Path, *numbers: int) -> Path:
    """Put cases into a data folder, their voxels beside them, and a split file of them beside it; return that."""
    for number in numbers:
        for name in (f"img/Case{number}", f"gt/Case{number}_segmentation"):
            for suffix in (".mhd", ".raw"):
                path = folder / f"{name}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(name)
    split = folder.parent / "test.csv"
    split.write_text("".join(f"Case{number}.mhd\n" for number in numbers))
    return split


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
