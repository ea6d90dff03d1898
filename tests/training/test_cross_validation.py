import os
import shutil
import sys

import pytest

import cross_validate
from src.data.split import fold_split, read_split
from src.errors import EXIT_USER_ERROR, DataError, UserError
from src.training.cross_validation import is_finished, run_ensemble, run_fold, run_logged
from src.training.cross_validation_plan import check_pretrained, check_test_split, plan_cross_validation
from tests.training.cross_validation_stand_in import CASES, given, processes, put_cases, read  # noqa: F401

# ruff: noqa: F811


def plan_of(given, folds=3, **options):
    return plan_cross_validation(recipe_name="vnet_promise12", folds=folds, **{**given, **options})


def run_all(plan):
    for seed in plan.seeds:
        for fold in plan.folds:
            run_fold(plan, seed, fold)


def value_of(arguments, name):
    return arguments[arguments.index(name) + 1]


def test_a_fold_is_trained_then_evaluated_on_its_validation_cases(given, processes, tmp_path):
    (tmp_path / "recipe.json").write_text('{"loss": "dice_ce"}')
    plan = plan_of(given, config=str(tmp_path / "recipe.json"), changes=["epochs=10", "lr=0.01"], seeds=[4],
                   device=("--device_target", "CPU"), eval_changes=("tta=x",))
    run_fold(plan, 4, 1)
    (first, training), (second, evaluation) = processes.calls
    assert (first, second) == ("train.py", "eval.py")
    folder = given["output"] / "seed4" / "fold1"
    assert training == [
        "--data_path", str(given["data_path"]), "--device_target", "CPU", "--recipe", "vnet_promise12", "--config",
        str(tmp_path / "recipe.json"), "--train_split_file_path", str(given["split_path"]), "--run_dir", str(folder),
        "--set", "epochs=10", "lr=0.01", "fold=1", "folds=3", "seed=4", "fold_seed=1",
        "keep_checkpoint_max=1"]
    assert evaluation == [
        "--ckpt_path", str(folder / "ckpt" / "checkpoint_vnet-10_3.ckpt"), "--data_path", str(given["data_path"]),
        "--eval_split_file_path", str(folder / "val.csv"), "--output_dir", str(folder / "out_of_fold"),
        "--device_target", "CPU", "--set", "tta=x"]
    assert read_split(folder / "val.csv") == fold_split(CASES, 1, 3, 1)[1]
    saved = read(folder / "recipe.json")["recipe"]
    assert (saved["loss"], saved["epochs"], saved["fold"], saved["seed"]) == ("dice_ce", 10, 1, 4)


def test_weights_to_begin_with_are_looked_up_before_any_training(given, processes, tmp_path):
    changes = [f"pretrained={tmp_path}/first/seed{{seed}}/fold{{fold}}"]
    for fold in (0, 1):
        (tmp_path / f"first/seed1/fold{fold}").mkdir(parents=True)
    plan = plan_of(given, changes=changes)
    check_pretrained(plan, [0, 1])
    with pytest.raises(UserError, match=r"'pretrained': .*/first/seed1/fold2: no such file or folder \(fold 2, seed 1"):
        check_pretrained(plan, plan.folds)
    run_fold(plan, 1, 2)  # a fold that has begun does without
    check_pretrained(plan, plan.folds)


def test_other_data_than_a_fold_began_on_is_told(given, processes, tmp_path, caplog):
    run_fold(plan_of(given), 1, 0)
    (tmp_path / "link").symlink_to(given["data_path"])
    run_fold(plan_of({**given, "data_path": tmp_path / "link"}), 1, 0)
    assert "begun on the data of" not in caplog.text
    shutil.copytree(given["data_path"], tmp_path / "copy")
    run_fold(plan_of({**given, "data_path": tmp_path / "copy"}), 1, 0)
    assert f"begun on the data of {given['data_path']}, not of {tmp_path / 'copy'}; make sure" in caplog.text


def test_folds_are_the_same_for_every_seed_and_follow_fold_seed(given, processes):
    plan = plan_of(given, seeds=[1, 2])
    run_all(plan)
    splits = [[read_split(plan.fold_folder(seed, fold) / "val.csv") for fold in range(3)] for seed in (1, 2)]
    assert splits[0] == splits[1]
    assert sorted(sum(splits[0], [])) == CASES
    other = plan_of(given, changes=["fold_seed=2"], output=given["output"].with_name("other"))
    run_fold(other, 1, 0)
    assert read_split(other.fold_folder(1, 0) / "val.csv") == fold_split(CASES, 0, 3, 2)[1] != splits[0][0]


def test_what_is_done_is_skipped(given, processes):
    plan = plan_of(given)
    run_all(plan)
    assert processes.scripts() == ["train.py", "eval.py"] * 3
    run_all(plan)
    assert len(processes.calls) == 6
    (plan.evaluation_folder(1, 2) / "metrics.csv").unlink()
    assert not is_finished(plan, 1, 2) and is_finished(plan, 1, 1)
    run_all(plan)
    assert processes.scripts()[6:] == ["eval.py"]


def test_another_evaluation_trains_nothing_anew(given, processes):
    run_all(plan_of(given))
    plan = plan_of(given, eval_changes=("tta=xy", "window_overlap=0.25"))
    assert not is_finished(plan, 1, 0)
    run_all(plan)
    assert processes.scripts()[6:] == ["eval.py"] * 3
    assert processes.calls[-1][1][-3:] == ["--set", "tta=xy", "window_overlap=0.25"]
    best = plan_of(given, checkpoint="best")
    run_fold(best, 1, 0)
    assert value_of(processes.calls[-1][1], "--ckpt_path").endswith("fold0/ckpt/best.ckpt")


def test_a_failing_fold_stops_it_and_a_repetition_resumes(given, processes):
    plan = plan_of(given)
    processes.exit_codes["fold1"] = 3
    with pytest.raises(UserError) as error:
        run_all(plan)
    log = given["output"] / "seed1" / "fold1-train.log"
    assert "seed 1, fold 1 of 3: training ended with exit code 3: 'the last words of train.py'" in str(error.value)
    assert str(log) in str(error.value)
    folder = given["output"] / "seed1" / "fold1"
    assert f"To change the recipe, delete {folder} first, or choose another --output_dir" in str(error.value)
    assert processes.scripts() == ["train.py", "eval.py", "train.py"]
    processes.exit_codes.clear()
    run_all(plan)
    assert processes.scripts()[3:] == ["train.py", "eval.py"] * 2
    assert processes.calls[3][1] == ["--data_path", str(given["data_path"]), "--resume",
                                     str(given["output"] / "seed1" / "fold1")]
    assert value_of(processes.calls[4][1], "--ckpt_path").endswith("checkpoint_vnet-10_3.ckpt")
    assert log.read_text().count("$ ") == 2, "both commands are in the log"


def test_a_failing_evaluation_is_named_and_repeated_alone(given, processes):
    plan = plan_of(given)
    processes.exit_codes["eval.py"] = -9
    with pytest.raises(UserError, match="fold 0 of 3: evaluation was killed by signal 9.*fold0-eval.log.*"
                                        "delete .*fold0 first"):
        run_fold(plan, 1, 0)
    processes.exit_codes.clear()
    run_fold(plan, 1, 0)
    assert processes.scripts() == ["train.py", "eval.py", "eval.py"]


def test_a_folder_of_other_settings_is_refused(given, processes):
    run_fold(plan_of(given), 1, 0)
    with pytest.raises(UserError, match=r"fold0: holds a run of other settings \(lr is 0.0005, expected 0.01\)"):
        run_fold(plan_of(given, changes=["lr=0.01"]), 1, 0)
    with pytest.raises(UserError, match="folds is 3, expected 2"):
        is_finished(plan_of(given, folds=2), 1, 0)
    given["split_path"].write_text("".join(f"{name}\n" for name in CASES[1:]))
    with pytest.raises(UserError, match="other cases than fold 0"):
        run_fold(plan_of(given), 1, 0)


def test_a_key_of_a_later_version_does_not_matter(given, processes):
    plan = plan_of(given)
    run_fold(plan, 1, 0)
    path = plan.fold_folder(1, 0) / "recipe.json"
    path.write_text(path.read_text().replace('"tta"', '"a_key_that_went"'))
    assert is_finished(plan, 1, 0)
    path.write_text("{}")
    with pytest.raises(UserError, match="recipe.json: not as a run writes it"):
        is_finished(plan, 1, 0)


def test_results_of_another_machine_need_no_checkpoints(given, processes):
    plan = plan_of(given)
    run_all(plan)
    moved = given["output"].with_name("moved")
    given["output"].rename(moved)
    for path in moved.rglob("*.ckpt"):
        path.unlink()
    assert all(is_finished(plan_of(given, output=moved), 1, fold) for fold in range(3))


@pytest.mark.parametrize(("options", "message"), [
    ({"changes": ["fold=1"]}, "'fold': found 1, expected none.*--only"),
    ({"changes": ["seed=3"]}, "'seed'.*--seeds"),
    ({"changes": ["epoch=3"]}, "did you mean 'epochs'"),
    ({"eval_changes": ("tta=q",)}, "'tta': found 'q'"),
    ({"eval_changes": ("tta=x", "dstRes=[2,2,2]", "base_channels=8")},
     r"--eval_set base_channels, dstRes: expected keys of prediction alone \(window_overlap, tta, "),
    ({"folds": 8}, "fold 0 of 8 with 7 cases"),
    ({"folds": 1}, "--folds 1: expected at least 2 folds"),
    ({"folds": 0}, "--folds 0: expected at least 2 folds"),
    ({"folds": None, "changes": ["folds=1"]}, "expected at least 2 folds"),
    ({"changes": ["early_stopping=3"]}, "'early_stopping': found 3, expected 0.*by the Dice of the very cases"),
    ({"seeds": [1, 1]}, "each once"),
    ({"together": True}, "--together: found one seed, 1, expected several"),
    ({"seeds": [-1]}, "'seed': found -1"),
])  # fmt: skip
def test_wrong_settings_are_found_before_anything_runs(given, options, message):
    with pytest.raises(UserError, match=message):
        plan_of(given, **options)
    assert not given["output"].exists()


def test_missing_data_and_split(given, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        plan_of(given, data_path=tmp_path / "nowhere")
    with pytest.raises(DataError, match="nowhere.csv cannot be read"):
        plan_of(given, split_path=tmp_path / "nowhere.csv")


def test_folds_of_the_recipe(given):
    assert list(plan_of(given, folds=None).folds) == [0, 1, 2, 3, 4]
    assert list(plan_of(given, folds=None, changes=["folds=3"]).folds) == [0, 1, 2]


def test_the_other_network_has_the_same_folds(given, processes):
    plan = plan_cross_validation(recipe_name="unet3d_brain", folds=2, seeds=[5], **given)
    run_fold(plan, 5, 0)
    assert processes.calls[0][1][-5:] == ["fold=0", "folds=2", "seed=5", "fold_seed=1", "keep_checkpoint_max=1"]
    assert is_finished(plan, 5, 0)
    assert read_split(plan.fold_folder(5, 0) / "val.csv") == plan_of(given, folds=2).fold_names(0)[1]


def test_a_fold_keeps_one_checkpoint_unless_told_otherwise(given, processes, tmp_path):
    (tmp_path / "recipe.json").write_text('{"keep_checkpoint_max": 4}')
    for number, (options, expected) in enumerate([({}, 1), ({"changes": ["keep_checkpoint_max=3"]}, 3),
                                                  ({"config": str(tmp_path / "recipe.json")}, 4)]):
        plan = plan_of(given, output=tmp_path / str(number), **options)
        run_fold(plan, 1, 0)
        assert read(plan.fold_folder(1, 0) / "recipe.json")["recipe"]["keep_checkpoint_max"] == expected
        assert is_finished(plan_of(given, output=tmp_path / str(number)), 1, 0), "how many are kept changes no result"


def test_a_fold_without_the_identity_of_its_checkpoint_gets_one(given, processes):
    """As after a kill between the training and that file: the run says that it is done, and nothing is trained."""
    plan = plan_of(given)
    run_fold(plan, 1, 0)
    path = plan.fold_folder(1, 0) / "trained.json"
    saved = path.read_text()
    path.write_text('{"last": "checkpoint_vnet-10_3.ckpt"}')
    assert not is_finished(plan, 1, 0)
    processes.train = lambda arguments, code: None
    run_fold(plan, 1, 0)
    assert path.read_text() == saved
    assert set(read(path)["sha256"]) == {"checkpoint_vnet-10_3.ckpt", "best.ckpt"}
    assert processes.scripts() == ["train.py", "eval.py", "train.py"]
    assert processes.calls[-1][1][-2:] == ["--resume", str(plan.fold_folder(1, 0))]


def test_ensemble_of_all_networks(given, processes, tmp_path):
    plan = plan_of(given, folds=2, seeds=[1, 2], eval_changes=("tta=x",))
    run_all(plan)
    put_cases(given["data_path"], 98, 99)
    run_ensemble(plan, tmp_path / "test.csv")
    script, arguments = processes.calls[-1]
    runs = [given["output"] / f"seed{seed}" / f"fold{fold}" for seed in (1, 2) for fold in (0, 1)]
    assert script == "eval.py"
    assert arguments == ["--ckpt_path", *(str(run / "ckpt" / "checkpoint_vnet-10_3.ckpt") for run in runs),
                         "--data_path", str(given["data_path"]), "--eval_split_file_path", str(tmp_path / "test.csv"),
                         "--output_dir", str(given["output"] / "ensemble"), "--set", "tta=x"]
    count = len(processes.calls)
    run_ensemble(plan, tmp_path / "test.csv")
    assert len(processes.calls) == count
    (tmp_path / "test.csv").write_text("Case98.mhd\n")
    run_ensemble(plan, tmp_path / "test.csv")
    assert len(processes.calls) == count + 1


def test_networks_of_all_seeds_together_predict_the_fold_they_were_not_trained_on(given, processes):
    plan = plan_of(given, folds=2, seeds=[0, 4], eval_changes=("tta=x",), together=True)
    run_all(plan)
    count = len(processes.calls)
    for fold in plan.folds:
        run_fold(plan, None, fold)
    assert processes.scripts()[count:] == ["eval.py", "eval.py"]
    runs = [given["output"] / f"seed{seed}" / "fold1" for seed in (0, 4)]
    assert processes.calls[-1][1] == [
        "--ckpt_path", *(str(run / "ckpt" / "checkpoint_vnet-10_3.ckpt") for run in runs),
        "--data_path", str(given["data_path"]), "--eval_split_file_path", str(runs[0] / "val.csv"),
        "--output_dir", str(given["output"] / "together" / "fold1" / "out_of_fold"), "--set", "tta=x"]
    assert is_finished(plan, None, 1)
    run_fold(plan, None, 1)
    assert len(processes.calls) == count + 2, "what is done is skipped"
    shutil.rmtree(plan.fold_folder(4, 1))
    assert not is_finished(plan, None, 1)
    run_fold(plan, 4, 1)
    assert not is_finished(plan, None, 1), "another network than the one that was evaluated"


def test_seeds_together_need_the_checkpoints_of_all_and_the_seeds_have_their_tables_before(given, processes, capsys):
    arguments = command_line(given, "--folds", "2", "--seeds", "0,4")
    assert cross_validate.main(arguments) == 0
    for seed in (0, 4):
        (given["output"] / f"seed{seed}" / "summary.json").unlink()
    (given["output"] / "seed4/fold1/ckpt/checkpoint_vnet-10_3.ckpt").unlink()
    assert cross_validate.main([*arguments, "--together"]) == EXIT_USER_ERROR
    assert "seed4/fold1/ckpt/checkpoint_vnet-10_3.ckpt not found, expected" in capsys.readouterr().err
    assert all((given["output"] / f"seed{seed}" / "summary.json").is_file() for seed in (0, 4))


@pytest.mark.parametrize("checkpoint", ["last", "best"])
def test_ensemble_of_a_fold_that_was_trained_anew(given, processes, checkpoint):
    plan = plan_of(given, folds=2, checkpoint=checkpoint)
    split = put_cases(given["data_path"], 98)
    run_all(plan)
    run_ensemble(plan, split)
    shutil.rmtree(plan.fold_folder(1, 0))
    run_all(plan)
    count = len(processes.calls)
    run_ensemble(plan, split)
    assert processes.scripts()[count:] == ["eval.py"]


@pytest.mark.parametrize("changed", ["img/Case98.mhd", "img/Case98.raw", "gt/Case98_segmentation.raw"])
def test_ensemble_on_test_data_that_changed(given, processes, tmp_path, changed):
    plan = plan_of(given, folds=2)
    run_all(plan)
    folders = [tmp_path / "first", tmp_path / "second"]
    split = [put_cases(folder, 98) for folder in folders][0]
    count = len(processes.calls)
    for folder in (*folders, folders[1]):
        run_ensemble(plan, split, folder)
    assert [value_of(arguments, "--data_path") for _, arguments in processes.calls[count:]] == list(map(str, folders))
    (folders[1] / changed).write_text("other voxels")
    run_ensemble(plan, split, folders[1])
    run_ensemble(plan, split, folders[1])
    assert len(processes.calls) == count + 3


def test_test_cases_that_are_not_there(given, processes, tmp_path, capsys):
    split = put_cases(given["data_path"], 98, 99)
    (given["data_path"] / "img" / "Case98.mhd").unlink()
    (given["data_path"] / "gt" / "Case99_segmentation.mhd").unlink()
    assert cross_validate.main(command_line(given, "--folds", "2", "--test_split_file_path", str(split))) \
        == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert "Case98: image" in said and "Case99: ground truth" in said
    assert processes.calls == [], "before hours of training"


def test_test_cases_that_were_trained_on_are_refused_by_whatever_name(given, tmp_path):
    plan = plan_of(given)
    (tmp_path / "inner").mkdir()
    (tmp_path / "link").symlink_to(given["data_path"])
    (tmp_path / "test.csv").write_text("Case03.mhd\n")
    for folder in (given["data_path"], tmp_path / "inner" / ".." / "data", tmp_path / "link"):
        with pytest.raises(UserError, match=r"Case03.mhd in .*all.csv as well"):
            check_test_split(plan, tmp_path / "test.csv", folder)
    split = put_cases(tmp_path / "others", 10)
    assert [case.case_id for case in check_test_split(plan, split, tmp_path / "others")] == ["Case10"]


def test_test_cases_that_were_trained_on_are_refused(given, tmp_path):
    plan = plan_of(given)
    (tmp_path / "test.csv").write_text("Case98.mhd\nCase03.mhd\n")
    with pytest.raises(UserError, match=r"Case03.mhd in .*all.csv as well"):
        run_ensemble(plan, tmp_path / "test.csv")
    with pytest.raises(UserError, match="--test_data_path .*nowhere: no such folder"):
        run_ensemble(plan, tmp_path / "test.csv", tmp_path / "nowhere")


def test_processes_log_all_they_say(tmp_path):
    log = tmp_path / "folder" / "fold0-train.log"
    program = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(5)"
    assert run_logged([sys.executable, "-c", program], log) == 5
    assert run_logged([sys.executable, "-c", f"import os; print(os.getppid() == {os.getpid()})"], log) == 0
    text = log.read_text()
    assert text.startswith("$ ") and {"out", "err", "True"} <= set(text.splitlines())


def command_line(given, *arguments):
    return ["--data_path", str(given["data_path"]), "--split_file_path", str(given["split_path"]), "--output_dir",
            str(given["output"]), *arguments]


def test_entry_script_runs_some_folds_here_and_the_others_there(given, processes, tmp_path):
    put_cases(given["data_path"], 99)
    more = ["--folds", "3", "--test_split_file_path", str(tmp_path / "test.csv")]
    assert cross_validate.main(command_line(given, *more, "--only", "0,2")) == 0
    assert processes.scripts() == ["train.py", "eval.py"] * 2
    assert not (given["output"] / "summary.json").exists()
    assert "no summary yet, since fold 1 of 3 is missing" in (given["output"] / "cross_validate.log").read_text()
    assert cross_validate.main(command_line(given, *more, "--only", "1")) == 0
    assert processes.scripts()[4:] == ["train.py", "eval.py", "eval.py"]
    assert read(given["output"] / "summary.json")["cases"] == 7
    assert (given["output"] / "ensemble" / "metrics.csv").is_file()


def test_entry_script_says_what_is_wrong(given, processes, capsys):
    assert cross_validate.main(command_line(given, "--folds", "3", "--only", "3")) == EXIT_USER_ERROR
    assert "--only [3]: expected folds from 0 to 2" in capsys.readouterr().err
    processes.exit_codes["fold2"] = 2
    assert cross_validate.main(command_line(given, "--folds", "3")) == EXIT_USER_ERROR
    assert "fold 2 of 3: training ended with exit code 2" in capsys.readouterr().err
