"""Cross-validation: every case is predicted once by a network that was not trained on it.

Each fold is a run of `train.py` and one of `eval.py`, processes of their own that leave all they have to say on disk:

    OUTPUT/seed1/fold0/              run folder
    OUTPUT/seed1/fold0/out_of_fold/  evaluation of the fold's validation cases (`val.csv`), out of reach of an `eval.py`
                                     by hand, which writes into the run folder
    OUTPUT/seed1/fold0-train.log     what the processes said; fold0-eval.log
    OUTPUT/seed1/metrics.csv         out-of-fold rows of all folds, with summary.json and report.html
    OUTPUT/summary.json              over the seeds
    OUTPUT/together/                 as a seed's folder, of each fold's networks of all seeds as one, if asked for
    OUTPUT/ensemble/                 all networks together on test cases, if asked for

So a fold can run on another machine, and a repeated command skips what is done and resumes what was interrupted.
"""

import glob
import hashlib
import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.checkpoint import BEST_NAME, list_checkpoints
from src.data import Case
from src.data.case import split_volume_name
from src.data.split import read_split, split_hash
from src.errors import UserError
from src.files import write_json
from src.inference.bundle import file_sha256
from src.overrides import plain
from src.ranks import end_with_parent
from src.training.cross_validation_plan import (
    TRAINED_NAME,
    CrossValidation,
    check_test_split,
    read_json_or_nothing,
)

logger = logging.getLogger(__name__)

# Runs a command, appends what it says to a log file and returns its exit code.
Run = Callable[[list[str], Path], int]
_ROOT = Path(__file__).resolve().parents[2]
_EVALUATED = "evaluated.json"  # in a folder: that step is done, and how


def run_logged(command: list[str], log: Path) -> int:
    """Run a command to its end with all it says appended to `log`; return its exit code, -N after signal N."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        file.write(f"$ {shlex.join(command)}\n".encode())
        file.flush()
        # The end of this process is the end of the child: a run that went on unseen would meet its own repetition.
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, check=False,
                              preexec_fn=end_with_parent).returncode


def run_fold(plan: CrossValidation, seed: int | None, fold: int, run: Run = run_logged) -> None:
    """Train and evaluate a fold, as far as that is not done yet; without a seed, evaluate the networks of all as one.

    Raises:
        UserError: the fold's folder holds a run of other settings, a process failed: names fold, log and exit code; or
            without a seed, the checkpoint of one is not here.
    """
    members = plan.members(seed, fold)
    if seed is not None:
        _train(plan, seed, fold, run)
    elif not is_finished(plan, seed, fold):
        missing = [path for member in members if not (path := plan.checkpoint_of(*member)[0]).is_file()]
        if missing:
            raise UserError(f"--together: {', '.join(map(str, missing))} not found, expected the checkpoints of every "
                            "seed; copy them from where they were trained, or leave --together out")
    split = plan.fold_folder(members[0][0], fold) / "val.csv"
    _evaluate(plan, _evaluation(plan, members, read_split(split)), plan.data_path, split,
              plan.evaluation_folder(seed, fold), f"{plan.title_of(seed)}, fold {fold} of {len(plan.folds)}",
              plan.log_of(seed, fold, "eval"), run, _advice(plan, seed, fold))


def is_finished(plan: CrossValidation, seed: int | None, fold: int) -> bool:
    """Whether a fold is trained, and evaluated in the way that is asked for; without a seed, that of all together.

    Raises:
        UserError: the fold's folder holds a run of other settings.
    """
    members = plan.members(seed, fold)
    if not all(_is_trained(plan, *member) for member in members):
        return False
    wanted = _evaluation(plan, members, plan.fold_names(fold)[1])
    return _is_evaluated(plan.evaluation_folder(seed, fold), wanted)


def run_ensemble(plan: CrossValidation, test_split: Path, test_data: Path | None = None, run: Run = run_logged) -> None:
    """Evaluate the networks of all folds and seeds together, their mean probability, on test cases.

    Args:
        plan: all of its folds are trained.
        test_split: split file of the test cases.
        test_data: their folder, by default that of the training cases.
        run: see `Run`.

    Raises:
        UserError, DataError: as `check_test_split`, or the process failed.
    """
    cases = check_test_split(plan, test_split, test_data)
    folder = (test_data or plan.data_path).absolute()
    members = [(seed, fold) for seed in plan.seeds for fold in plan.folds]
    wanted = _evaluation(plan, members, read_split(test_split)) | {
        "data_path": str(folder.resolve()), "files": _files_hash(cases)}
    _evaluate(plan, wanted, folder, test_split.absolute(), plan.output / "ensemble", f"ensemble of {len(members)}",
              plan.output / "ensemble-eval.log", run)


def _train(plan: CrossValidation, seed: int, fold: int, run: Run) -> None:
    folder = plan.fold_folder(seed, fold)
    name = f"{plan.title_of(seed)}, fold {fold} of {len(plan.folds)}"
    begun_on = read_json_or_nothing(folder / "recipe.json").get("data_path")
    if begun_on and Path(begun_on).resolve() != plan.data_path.resolve():
        logger.warning("%s: begun on the data of %s, not of %s; make sure that they are the same, or delete %s to "
                       "train the fold anew", name, begun_on, plan.data_path, folder)
    if _is_trained(plan, seed, fold):
        logger.info("%s: trained already, %s", name, folder)
        return
    command = [sys.executable, str(_ROOT / "train.py"), "--data_path", str(plan.data_path), *plan.device]
    if (folder / "recipe.json").is_file():
        command += ["--resume", str(folder)]
    else:
        config, changes = plan.changes
        recipe = plan.fold_recipe(seed, fold)
        own = [f"{key}={recipe[key]}" for key in ("fold", "folds", "seed", "fold_seed", "keep_checkpoint_max")]
        command += ["--recipe", plan.recipe_name, *(["--config", config] if config else []),
                    "--train_split_file_path", str(plan.split_path), "--run_dir", str(folder), "--set", *changes, *own]
    _call(f"{name}: training", command, plan.log_of(seed, fold, "train"), run, _advice(plan, seed, fold))
    checkpoints = list_checkpoints(folder / "ckpt")
    if not checkpoints:
        raise UserError(f"{name}: training left no checkpoint in {folder / 'ckpt'}, expected that of the last epoch; "
                        f"see {plan.log_of(seed, fold, 'train')}")
    kept = [path for path in (checkpoints[-1], folder / "ckpt" / BEST_NAME) if path.is_file()]
    write_json(folder / TRAINED_NAME, {"last": checkpoints[-1].name,
                                       "sha256": {path.name: file_sha256(path) for path in kept}})


def _is_trained(plan: CrossValidation, seed: int, fold: int) -> bool:
    """Whether a fold's run is finished; it has to be the run that is asked for."""
    folder = plan.fold_folder(seed, fold)
    if not (folder / "recipe.json").is_file():
        return False
    saved = read_json_or_nothing(folder / "recipe.json")
    wanted = {"recipe_name": plan.recipe_name, **plain(plan.fold_recipe(seed, fold))}
    try:
        found = {"recipe_name": saved["recipe_name"], **saved["recipe"]}
        names = tuple(split_hash(saved[key]) for key in ("train_names", "validation_names"))
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder}/recipe.json: not as a run writes it ({error!r}); restore it, or delete {folder} to "
                        "train the fold anew") from error
    # A key that came with a later version of the program has its default there; how many are kept changes no result.
    differences = [f"{key} is {found[key]!r}, expected {wanted[key]!r}" for key in wanted
                   if key != "keep_checkpoint_max" and key in found and found[key] != wanted[key]]
    if not differences and names != tuple(map(split_hash, plan.fold_names(fold))):
        differences = [f"other cases than fold {fold} of {plan.split_path} has"]
    if differences:
        raise UserError(f"{folder}: holds a run of other settings ({'; '.join(differences)}); repeat the command that "
                        "began it, delete the folder to train the fold anew, or choose another --output_dir")
    return "sha256" in read_json_or_nothing(folder / TRAINED_NAME)


def _advice(plan: CrossValidation, seed: int | None, fold: int) -> str:
    if seed is None:
        return ""
    return (f", an interrupted training resumes. To change the recipe, delete {plan.fold_folder(seed, fold)} first, or "
            "choose another --output_dir if other folds are trained already")


def _evaluate(plan: CrossValidation, wanted: Mapping[str, Any], data_path: Path, split: Path, folder: Path, name: str,
              log: Path, run: Run, advice: str = "") -> None:
    if _is_evaluated(folder, wanted):
        logger.info("%s: evaluated already, %s", name, folder)
        return
    (folder / _EVALUATED).unlink(missing_ok=True)
    checkpoints = [str(plan.output / path) for path in wanted["checkpoints"]]
    command = [sys.executable, str(_ROOT / "eval.py"), "--ckpt_path", *checkpoints,
               "--data_path", str(data_path), "--eval_split_file_path", str(split), "--output_dir", str(folder),
               *plan.device, *(["--set", *plan.eval_changes] if plan.eval_changes else [])]
    _call(f"{name}: evaluation", command, log, run, advice)
    write_json(folder / _EVALUATED, wanted)


def _is_evaluated(folder: Path, wanted: Mapping[str, Any]) -> bool:
    return read_json_or_nothing(folder / _EVALUATED) == wanted and (folder / "metrics.csv").is_file()


def _evaluation(plan: CrossValidation, members: Sequence[tuple[int, int]], names: Sequence[str]) -> dict[str, Any]:
    """What an evaluation of the networks of (seed, fold) is of, the same on every machine."""
    checkpoints = dict(plan.checkpoint_of(*member) for member in members)
    return {"checkpoints": {path.relative_to(plan.output).as_posix(): digest for path, digest in checkpoints.items()},
            "set": list(plan.eval_changes), "cases": split_hash(names)}


def _files_hash(cases: Sequence[Case]) -> str:
    """SHA-256 of the names, sizes and times of change of all files of cases, voxels beside a header included."""
    listed = []
    for path in (path for case in cases for path in (case.image_path, case.label_path, case.region_path) if path):
        # A patient of many slices is a folder.
        own = path.iterdir() if path.is_dir() else path.parent.glob(
            glob.escape(split_volume_name(path.name)[0]) + ".*")
        listed += [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(own)]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _call(name: str, command: list[str], log: Path, run: Run, advice: str) -> None:
    logger.info("%s; log: %s", name, log)
    code = run(command, log)
    if code == 0:
        return
    said = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    last = next((line for line in reversed(said) if line.strip()), "")
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise UserError(f"{name} {how}: {last!r}; all it said is in {log}. Mend it and repeat the command: what is done is "
                    f"skipped{advice}")
