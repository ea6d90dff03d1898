"""What a run is made of, and what may not be mixed."""

import json

import pytest

from src.data.split import fold_split, write_split
from src.errors import UserError
from src.overrides import load_recipe
from src.training.plan import new_plan, resumed_plan

NAMES = [f"Case{i:02d}.mhd" for i in range(10)]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    write_split(tmp_path / "train.csv", NAMES[:8])
    return tmp_path


def plan_of(data, *overrides, **kwargs):
    return new_plan("vnet_promise12", load_recipe(overrides=overrides), str(data / "data"), str(data / "train.csv"),
                    run_dir=str(data / "run"), **kwargs)


def test_validation_beside_the_training_split_or_named(data, caplog):
    assert plan_of(data).validation_names == []
    assert "no validation cases" in caplog.text
    write_split(data / "val.csv", NAMES[8:])
    assert plan_of(data).validation_names == NAMES[8:]
    write_split(data / "other.csv", NAMES[9:])
    plan = plan_of(data, validation_split=str(data / "other.csv"))
    assert (plan.train_names, plan.validation_names) == (NAMES[:8], NAMES[9:])


def test_fold_takes_validation_from_the_training_split(data):
    plans = [plan_of(data, f"fold={k}", "folds=4") for k in range(4)]
    assert sorted(name for plan in plans for name in plan.validation_names) == NAMES[:8]
    for plan in plans:
        assert len(plan.validation_names) == 2
        assert sorted(plan.train_names + plan.validation_names) == NAMES[:8]
    with pytest.raises(UserError, match="leave out --val_split_file_path"):
        plan_of(data, "fold=0", validation_split=str(data / "train.csv"))


def test_folds_go_by_their_own_seed(data):
    """Runs that differ in `seed` alone validate on the same cases."""
    usual, other_seed, other_folds = (plan_of(data, "fold=0", "folds=4", *more).validation_names
                                      for more in ((), ("seed=7",), ("fold_seed=7",)))
    assert other_seed == usual == fold_split(NAMES[:8], 0, 4, seed=1)[1]
    assert other_folds == fold_split(NAMES[:8], 0, 4, seed=7)[1] != usual
    brain = load_recipe("unet3d_brain", overrides=["fold=0", "folds=4", "seed=7"])
    plan = new_plan("unet3d_brain", brain, str(data / "data"), str(data / "train.csv"))
    assert plan.validation_names == usual


def test_problems_of_both_splits_are_collected(data):
    (data / "train.csv").write_text("Case00.mhd\nCase00.mhd\nCase07.mhd\n")
    (data / "val.csv").write_text("../Case09.mhd\nCase07.mhd\n")
    problems = "\n".join(plan_of(data).problems)
    assert len(plan_of(data).problems) == 3
    for part in ("Case00.mhd", "../Case09.mhd", "Case07.mhd: in the training and in the validation split"):
        assert part in problems


def test_missing_arguments_and_folders(data):
    recipe = load_recipe()
    with pytest.raises(UserError, match="needs --data_path"):
        new_plan("vnet_promise12", recipe, None, str(data / "train.csv"))
    (data / "file").write_text("")
    with pytest.raises(UserError, match="is a file, expected a folder"):
        new_plan("vnet_promise12", recipe, str(data), str(data / "train.csv"), run_dir=str(data / "file"))
    with pytest.raises(UserError, match="no such folder"):
        new_plan("vnet_promise12", recipe, str(data / "nowhere"), str(data / "train.csv"))
    assert new_plan("vnet_promise12", recipe, str(data / "data"), str(data / "train.csv")).run_dir.match(
        "runs/vnet_promise12-*-*")


def test_a_saved_run_is_found_again_and_not_overwritten(data):
    write_split(data / "val.csv", NAMES[8:])
    plan = plan_of(data, "epochs=3", "fold=-1")
    plan.save({"device_target": "CPU"})
    again = resumed_plan(str(data / "run"))
    assert len(again.commands) == 1
    again.save({})
    assert len(resumed_plan(str(data / "run")).commands) == 2
    assert again.resumed
    assert (again.recipe, again.train_names, again.validation_names, again.data_path) == (
        plan.recipe, plan.train_names, plan.validation_names, plan.data_path)
    assert resumed_plan(str(data / "run"), epochs=9).recipe.epochs == 9
    with pytest.raises(UserError, match="--epochs 2: .* planned for 3 epochs"):
        resumed_plan(str(data / "run"), epochs=2)
    with pytest.raises(UserError, match="holds a run already; continue it with --resume"):
        plan_of(data)
    with pytest.raises(UserError, match="no run to continue"):
        resumed_plan(str(data))


def test_all_arguments_and_settings_are_beside_each_other(data):
    given = {"recipe": None, "epochs": None, "data_path": "data", "device_target": "CPU", "set": ["lr=0.25"],
             "resume": None, "run_dir": None}
    plan_of(data, "lr=0.25", "epochs=3").save({}, given)
    path = data / "run" / "args.json"
    saved = json.loads(path.read_text())
    assert saved == {**given, **load_recipe(overrides=["lr=0.25", "epochs=3"]), "recipe": "vnet_promise12",
                     "run_dir": str(data / "run")}
    assert (saved["epochs"], saved["set"]) == (3, ["lr=0.25"])
    # Resumed: what was not given again stays.
    again = {**given, "data_path": None, "set": [], "resume": str(data / "run"), "device_target": "GPU"}
    resumed_plan(str(data / "run"), epochs=5).save({}, again)
    assert json.loads(path.read_text()) == {**saved, "epochs": 5, "device_target": "GPU", "resume": str(data / "run")}
    path.unlink()  # as in a run of an earlier version
    resumed_plan(str(data / "run")).save({}, again)
    assert json.loads(path.read_text())["data_path"] is None
    path.write_text("{")
    with pytest.raises(UserError, match=r"args\.json: not as a run writes it"):
        resumed_plan(str(data / "run")).save({}, again)


def test_a_resumed_run_keeps_its_cases(data):
    plan_of(data).save({})
    resumed_plan(str(data / "run"), train_split=str(data / "train.csv"))
    write_split(data / "train.csv", NAMES[:7])
    with pytest.raises(UserError, match="other cases than"):
        resumed_plan(str(data / "run"), train_split=str(data / "train.csv"))
    path = data / "run" / "recipe.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "train_names": NAMES[:7]}))
    with pytest.raises(UserError, match="were changed"):
        resumed_plan(str(data / "run"))


def test_a_run_with_the_augmentation_of_an_earlier_version_is_refused(data):
    """Its recipe has `augment` alone; with today's defaults of aug_* the rest would train on other samples."""
    path = data / "run" / "recipe.json"
    for overrides, keep, refused in ((["augment=true"], False, True), (["augment=true"], True, False),
                                     (["augment=false"], False, False)):
        plan_of(data, *overrides).save({})
        saved = json.loads(path.read_text())
        recipe = {key: value for key, value in saved["recipe"].items() if keep or not key.startswith("aug_")}
        path.write_text(json.dumps({**saved, "recipe": recipe}))
        if refused:
            with pytest.raises(UserError, match=r"recipe\.json: .* earlier version: found no aug_\* keys .* expected .*"
                                                r"Finish it with the version .* or start a new run"):
                resumed_plan(str(data / "run"))
        else:
            assert resumed_plan(str(data / "run")).recipe.augment == (overrides == ["augment=true"])
        path.unlink()


def test_data_may_move(data, monkeypatch):
    plan_of(data).save({})
    monkeypatch.chdir(data)
    assert resumed_plan("run", data_path="data").data_path == data / "data"


@pytest.mark.parametrize("damage", [
    lambda saved: "{", lambda saved: "[1]", lambda saved: json.dumps({**saved, "recipe_name": "old"}),
    lambda saved: json.dumps({**saved, "recipe": []}), lambda saved: json.dumps({**saved, "recipe": {"epoch": 3}}),
    lambda saved: json.dumps({k: v for k, v in saved.items() if k != "data_path"}),
    lambda saved: json.dumps({**saved, "train_names": None})])
def test_a_damaged_plan_is_refused_by_its_path(data, damage):
    plan_of(data).save({})
    path = data / "run" / "recipe.json"
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(UserError, match=r"recipe\.json: not as a run writes it"):
        resumed_plan(str(data / "run"))
