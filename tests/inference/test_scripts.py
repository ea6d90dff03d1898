"""eval.py, predict.py and export.py from their command lines, on a tiny checkpoint and the sample."""

import shutil
from pathlib import Path

import pytest

import eval as eval_script
import export as export_script
import predict as predict_script
from src.data.split import write_split
from src.errors import UserError
from src.inference.golden import SAMPLE_DATA


def test_eval_then_predict(checkpoint_path, tmp_path, capsys):
    split = tmp_path / "one case.csv"
    write_split(split, ["Case24.mhd"])
    out = tmp_path / "out put"
    arguments = ["--ckpt_path", str(checkpoint_path), "--data_path", str(SAMPLE_DATA), "--eval_split_file_path",
                 str(split), "--output_dir", str(out), "--dev_id", "0", "--device_target", "CPU"]
    assert eval_script.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("avg_Hausdorff_distance: ")
    assert lines[-1].startswith("avg_dice: 0.")
    assert 0 <= float(lines[-1].split()[1]) <= 1
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert found == ["metrics.csv", "promise12.csv", "promise12.json", "report.html",
                     "results/prediction/Case24_test.mhd", "results/prediction/Case24_test.zraw", "summary.json"]

    image = SAMPLE_DATA / "img" / "Case24.mhd"
    arguments = ["--ckpt_path", str(checkpoint_path), "--input", str(image), "--output", str(tmp_path / "mask")]
    assert predict_script.main(arguments) == 0
    evaluated, predicted = out / "results/prediction/Case24_test.zraw", tmp_path / "mask" / "Case24_test.zraw"
    assert predicted.read_bytes() == evaluated.read_bytes()
    assert "foreground" in capsys.readouterr().out


def test_several_checkpoints_are_one_ensemble(checkpoint_path, tmp_path, capsys):
    second = shutil.copyfile(checkpoint_path, tmp_path / "second.ckpt")
    split = tmp_path / "one.csv"
    write_split(split, ["Case24.mhd"])
    checkpoints = ["--ckpt_path", str(checkpoint_path), str(second), "--set", "scoring=none", "largest_component=false"]
    arguments = [*checkpoints, "--data_path", str(SAMPLE_DATA), "--eval_split_file_path", str(split)]
    assert eval_script.main(arguments) == 2
    assert "found 2 checkpoints, which are evaluated as one ensemble" in capsys.readouterr().err
    out = tmp_path / "out"
    assert eval_script.main([*arguments, "--output_dir", str(out)]) == 0
    assert "an ensemble of 2: checkpoint_vnet-7_3.ckpt, second.ckpt" in (out / "report.html").read_text()
    arguments = [*checkpoints, "--input", str(SAMPLE_DATA / "img" / "Case24.mhd"), "--output", str(tmp_path / "mask")]
    assert predict_script.main(arguments) == 0
    assert (tmp_path / "mask" / "Case24_test.zraw").read_bytes() == (
        out / "results/prediction/Case24_test.zraw").read_bytes()


def test_eval_on_several_ranks_joins_them(checkpoint_path, tmp_path, monkeypatch, capsys):
    def joined(*arguments, settings):
        raise UserError(f"asked for {arguments}, the same {sorted(settings)}")

    monkeypatch.setattr(eval_script, "create_backend", joined)
    arguments = ["--ckpt_path", str(checkpoint_path), "--data_path", str(SAMPLE_DATA), "--run_distribute", "1",
                 "--eval_split_file_path", "x.csv", "--device_num", "4", "--dev_id", "3"]
    assert eval_script.main(arguments) == 2
    assert "asked for ('CPU', 3, True, 4), the same ['cases', 'checkpoints']" in capsys.readouterr().err


def test_predict_from_a_bundle(bundle, tmp_path, capsys):
    image = SAMPLE_DATA / "img" / "Case29.mhd"
    arguments = ["--bundle", str(bundle.folder), "--input", str(image), "--output", str(tmp_path)]
    assert predict_script.main(arguments) == 0
    assert "golden case reproduced, largest difference" in capsys.readouterr().out
    assert (tmp_path / "Case29_test.mhd").is_file()


def test_export(checkpoint_path, tmp_path, capsys):
    arguments = ["--ckpt_file", str(checkpoint_path), "--file_name", str(tmp_path / "vnet"), "--file_format", "MINDIR"]
    assert export_script.main(arguments) == 0
    output = capsys.readouterr().out
    assert output.index("MINDIR agrees with the checkpoint") < output.index("done: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vnet.mindir", "vnet_bundle"]


@pytest.mark.parametrize("script", [eval_script, predict_script, export_script])
def test_missing_device_ends_in_one_line(script, tmp_path, capsys):
    assert script.main([*required(script, tmp_path), "--device_target", "GPU"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "GPU" in errors[0]
    assert "--device_target CPU" in errors[0]


@pytest.mark.parametrize("script", [eval_script, predict_script, export_script])
def test_missing_checkpoint(script, tmp_path, capsys):
    assert script.main(required(script, tmp_path)) == 2
    assert "none.ckpt: no such file" in capsys.readouterr().err


def test_air_off_ascend(tmp_path, capsys):
    assert export_script.main([*required(export_script, tmp_path), "--file_format", "AIR"]) == 2
    assert capsys.readouterr().err == ("error: AIR can be exported on Ascend only, and the device target is CPU; use "
                                       "--file_format MINDIR, which runs on every device\n")


def required(script, folder: Path) -> list[str]:
    missing = str(folder / "none.ckpt")
    if script is eval_script:
        return ["--ckpt_path", missing, "--data_path", str(folder), "--eval_split_file_path", str(folder / "v.csv")]
    if script is predict_script:
        return ["--ckpt_path", missing, "--input", str(folder), "--output", str(folder / "out")]
    return ["--ckpt_file", missing]
