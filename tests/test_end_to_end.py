"""The program as its user runs it, on a few sample cases: train, kill, resume, evaluate, export, predict."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from src.checkpoint import list_checkpoints, load_checkpoint

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "data" / "sample"
EPOCHS = 24
RECIPE = {"base_channels": 2, "VolSize": [16, 16, 16], "dstRes": [3, 3, 3], "batch_size": 2, "epochs": EPOCHS,
          "warmup_step": 2, "augment": True, "val_every": 3, "optimizer": "adamw", "loss": "dice_ce",
          "keep_checkpoint_max": 4, "patches": True, "deep_supervision": True, "ema_decay": 0.9}
TRAIN = ["Case00.mhd", "Case01.mhd", "Case02.mhd", "Case03.mhd"]
VALIDATION = ["Case24.mhd", "Case25.mhd"]


def command(script: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / script), *map(str, arguments)]


def environment(graphs: Path | None) -> dict[str, str]:
    """Return a program's environment; `graphs` keeps MindSpore's compiled graphs for the next one.

    MindSpore looks at the source code alone to see whether a kept graph is still the right one, so only runs of one
    recipe may share a folder.
    """
    kept = {"MS_COMPILER_CACHE_ENABLE": "1", "MS_COMPILER_CACHE_PATH": str(graphs)} if graphs else {}
    return {**os.environ, "GLOG_v": "3", "PYTHONPATH": str(ROOT), **kept}


def run(script: str, *arguments: object, expect: int = 0, cwd: Path = ROOT, graphs: Path | None = None) -> str:
    done = subprocess.run(command(script, *arguments), cwd=cwd, capture_output=True, text=True,
                          env=environment(graphs), check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("with space")
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    (folder / "train.csv").write_text("\n".join(TRAIN) + "\n")
    (folder / "val.csv").write_text("\n".join(VALIDATION) + "\n")
    return folder


def train_arguments(settings: Path, run_dir: Path) -> list[object]:
    return ["--config", settings / "recipe.json", "--data_path", SAMPLE, "--train_split_file_path",
            settings / "train.csv", "--run_dir", run_dir]


@pytest.fixture(scope="module")
def finished_run(settings) -> Path:
    """A run that nobody interrupted."""
    run_dir = settings / "uninterrupted"
    output = run("train.py", *train_arguments(settings, run_dir), graphs=settings / "graphs")
    assert re.search(rf"^epoch: {EPOCHS} step: 2, loss is \d\.\d{{7}}$", output, re.MULTILINE)
    assert re.search(r"^epoch time: \d+\.\d{3} ms, per step time: \d+\.\d{3} ms$", output, re.MULTILINE)
    return run_dir


def start(*arguments: object, graphs: Path) -> subprocess.Popen:
    return subprocess.Popen(command("train.py", *arguments), cwd=ROOT, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, env=environment(graphs))


def wait_until(process: subprocess.Popen, condition) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "the run ended before it was to be killed"
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def kill_while_writing(process: subprocess.Popen, run_dir: Path) -> None:
    """SIGKILL the process while a temporary checkpoint is there: stop it first, and look again."""
    def writing() -> bool:
        return any(f".{process.pid}.tmp" in name for name in half_written(run_dir))

    while True:
        wait_until(process, writing)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
        if writing():
            return kill(process)
        process.send_signal(signal.SIGCONT)


def newest_epoch(run_dir: Path) -> int:
    paths = list_checkpoints(run_dir / "ckpt") if (run_dir / "ckpt").is_dir() else []
    return int(re.search(r"-(\d+)_", paths[-1].name)[1]) if paths else 0


def half_written(run_dir: Path) -> list[str]:
    return [p.name for p in (run_dir / "ckpt").glob(".checkpoint*.tmp.ckpt")] if (run_dir / "ckpt").is_dir() else []


def test_killed_and_resumed_equals_uninterrupted(settings, finished_run):
    """SIGKILL at random moments, one of them while a checkpoint is being written; then weights equal bit for bit."""
    run_dir, graphs = settings / "killed", settings / "graphs"
    seed = random.randrange(2**32)
    print("random moments from seed", seed)
    moments = random.Random(seed)
    for attempt in range(2):
        reached = newest_epoch(run_dir)
        process = start(*(["--resume", run_dir] if attempt else train_arguments(settings, run_dir)), graphs=graphs)
        wait_until(process, lambda reached=reached: newest_epoch(run_dir) > reached)
        time.sleep(moments.uniform(0, 0.3))
        kill(process)
    kill_while_writing(start("--resume", run_dir, graphs=graphs), run_dir)
    assert half_written(run_dir)
    # A newest checkpoint that was cut short (a full disk, a bad copy) is refused by name; the one before it is used.
    newest = list_checkpoints(run_dir / "ckpt")[-1]
    newest.write_bytes(newest.read_bytes()[:-1000])
    output = run("train.py", "--resume", run_dir, graphs=graphs)
    assert f"refused: checkpoint {newest}" in output
    assert half_written(run_dir) == []

    expected, found = (list_checkpoints(folder / "ckpt") for folder in (finished_run, run_dir))
    assert [p.name for p in found] == [p.name for p in expected]
    assert len(found) == RECIPE["keep_checkpoint_max"]
    for name in (found[-1].name, "best.ckpt"):
        one, other = (load_checkpoint(folder / "ckpt" / name) for folder in (finished_run, run_dir))
        assert one.parameters.keys() == other.parameters.keys()
        for key, value in one.parameters.items():
            assert np.array_equal(value.asnumpy(), other.parameters[key].asnumpy()), key
        assert one.state == other.state
    columns = ["epoch", "step", "loss", "lr", "grad_norm", "val_dice"]
    one, other = (pd.read_csv(folder / "history.csv", float_precision="round_trip")[columns]
                  for folder in (finished_run, run_dir))
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_ctrl_c_says_how_to_go_on(settings):
    run_dir = settings / "interrupted"
    process = subprocess.Popen(
        command("train.py", *train_arguments(settings, run_dir)), cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, env=environment(settings / "graphs"),
        # A background job ignores SIGINT, and its children inherit that; a person at a terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_until(process, lambda: newest_epoch(run_dir) >= 1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "interrupted; files written so far are whole" in output
    assert "Traceback" not in output


def test_a_finished_run_says_so_and_can_be_extended(settings, finished_run):
    run_dir = settings / "extended"
    shutil.copytree(finished_run, run_dir)
    assert f"is done: {EPOCHS} of {EPOCHS} epochs" in run("train.py", "--resume", run_dir)
    assert "holds a run already" in run("train.py", *train_arguments(settings, run_dir), expect=2)
    output = run("train.py", "--resume", run_dir, "--epochs", EPOCHS + 1)
    assert f"after epoch {EPOCHS}, step {2 * EPOCHS}" in output
    assert pd.read_csv(run_dir / "history.csv")["epoch"].tolist() == list(range(1, EPOCHS + 2))
    assert newest_epoch(run_dir) == EPOCHS + 1


def test_evaluate_export_predict(settings, finished_run):
    checkpoint = finished_run / "ckpt" / "best.ckpt"
    output = run("eval.py", "--ckpt_path", checkpoint, "--data_path", SAMPLE, "--eval_split_file_path",
                 settings / "val.csv")
    summary = json.loads((finished_run / "summary.json").read_text())
    rows = pd.read_csv(finished_run / "metrics.csv")
    assert sorted(rows["case_id"]) == ["Case24", "Case25"]
    assert float(re.search(r"^avg_dice: ([\d.]+)", output, re.MULTILINE)[1]) == pytest.approx(
        rows["dice"].mean(), abs=1e-4)
    assert re.search(r"^avg_Hausdorff_distance: [\d.]+", output, re.MULTILINE)
    # The trainer's validation and eval.py see the same network and agree.
    best = load_checkpoint(checkpoint).state["best_dice"]
    assert summary["dice"]["mean"] == pytest.approx(best, abs=1e-6)
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", (finished_run / "report.html").read_text())
    mask = sitk.ReadImage(str(finished_run / "results" / "prediction" / "Case24_test.mhd"))
    image = sitk.ReadImage(str(SAMPLE / "img" / "Case24.mhd"))
    for attribute in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(mask, attribute)(), getattr(image, attribute)(), atol=1e-6)

    run("export.py", "--ckpt_file", checkpoint, "--file_name", settings / "vnet", "--file_format", "MINDIR")
    assert (settings / "vnet.mindir").is_file()
    for source, target in (("--bundle", "from_bundle"), ("--ckpt_path", "from_checkpoint")):
        path = {"--bundle": settings / "vnet_bundle", "--ckpt_path": checkpoint}[source]
        run("predict.py", source, path, "--input", SAMPLE / "img" / "Case29.mhd", "--output", settings / target)
    masks = [sitk.GetArrayFromImage(sitk.ReadImage(str(settings / f / "Case29_test.mhd")))
             for f in ("from_bundle", "from_checkpoint")]
    assert masks[0].shape == sitk.GetArrayFromImage(sitk.ReadImage(str(SAMPLE / "img" / "Case29.mhd"))).shape
    assert (masks[0] != masks[1]).mean() < 1e-4

    assert "Ascend" in run("export.py", "--ckpt_file", checkpoint, "--file_name", settings / "air", "--file_format",
                           "AIR", expect=2)


def test_check_data_lists_everything_at_once(settings, tmp_path):
    arguments = ["--data_path", SAMPLE, "--train_split_file_path", settings / "train.csv", "--check_data"]
    output = run("train.py", *arguments)
    assert all(f"{name[:-4]}: " in output for name in TRAIN + VALIDATION)

    for folder in ("img", "gt"):
        shutil.copytree(SAMPLE / folder, tmp_path / folder)
    (tmp_path / "img" / "Case00.zraw").unlink()
    short = tmp_path / "img" / "Case01.zraw"
    short.write_bytes(short.read_bytes()[:-50])
    (tmp_path / "gt" / "Case25_segmentation.mhd").unlink()
    output = run("train.py", "--data_path", tmp_path, *arguments[2:], expect=2)
    assert "error: 3 problems in the data:" in output
    assert re.search(r"Case00: .*Case00\.zraw", output)
    assert re.search(r"Case01: .*Case01\.zraw", output)
    assert re.search(r"Case25: .*Case25_segmentation\.mhd is missing", output)
    assert "Case02: " in output  # the sound cases are still shown


@pytest.mark.parametrize(("arguments", "message"), [
    (["--set", "epoch=3"], "did you mean 'epochs'"),
    (["--device_target", "GPU"], "device target GPU is not available"),
    (["--resume", "nowhere"], "no run to continue"),
    ([], "needs --data_path"),
])
def test_errors_are_one_message_and_exit_code_2(settings, tmp_path, arguments, message):
    if arguments[:1] == ["--device_target"]:
        arguments = [*arguments, *train_arguments(settings, tmp_path / "run")]
    output = run("train.py", *arguments, expect=2, cwd=tmp_path)
    assert re.search(f"^error: .*{message}", output, re.MULTILINE)
    assert "Traceback" not in output
