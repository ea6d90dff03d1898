"""What a finished cross-validation says, as a result to be published: figures, learning curves, commands.

    python benchmarks/accuracy.py OUTPUT_DIR NAME [--seed 1]

OUTPUT_DIR is that of cross_validate.py; the folds that are evaluated count, and the result says which these are. Writes
benchmarks/results/accuracy_NAME.json: the mean over all out-of-fold cases of each metric with its spread, every case's
Dice, each run's curve of validation Dice, seconds of training and share of them that waited for data, the recipe and
the commands of all processes; and docs/images/accuracy_NAME.png, the curves. Of several seeds the figures are those of
their networks together (cross_validate.py --together), with each seed's own Dice beside them; --seed takes one
alone. Nothing is chosen by the cases that are scored: what is evaluated is the last checkpoint.
"""

import argparse
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from src.errors import UserError, entry_point
from src.files import write_json
from src.machine import environment
from src.metrics.cases import METRICS, class_metrics, classes_of, read_rows, statistics
from src.metrics.text import text_table
from src.report.html import package_versions


def without_places(command: str) -> str:
    """Return a command line without the folders of its paths, which are the machine's own affair.

    Of a path the last part stays, and of one within a run that from the seed's folder on.
    """
    return shlex.join(without_place(word) for word in shlex.split(command))


def without_place(word: str) -> str:
    if not word.startswith("/"):
        return word
    within = re.search(r"(seed[^/]+|together)/fold[^/]+(/.*)?$", word)
    return within[0] if within else Path(word).name


def read_fold(folder: Path) -> dict[str, Any]:
    """Return what a fold's run and its evaluation say."""
    run = json.loads((folder / "recipe.json").read_text())
    history = pd.read_csv(folder / "history.csv")
    validated = history[history["val_dice"].notna()]
    seconds = history["seconds"]
    return {
        "seed": run["recipe"]["seed"], "recipe": run["recipe"], "recipe_name": run["recipe_name"],
        "training_cases": len(run["train_names"]), "training_names": " ".join(run["train_names"]),
        "backend": run["backend"],
        "steps": int(history["step"].iloc[-1]), "seconds": float(seconds.sum()),
        "stall_share": float((history["stall_share"] * seconds).sum() / seconds.sum()),
        "curve": {"epoch": validated["epoch"].tolist(), "val_dice": validated["val_dice"].tolist(),
                  "loss": history["loss"].tolist()},
        **read_evaluation(folder, "train", "eval")}


def read_evaluation(folder: Path, *steps: str) -> dict[str, Any]:
    """Return what a fold's evaluation says, which checkpoints and settings it is of, and the commands of its steps."""
    rows = read_rows(folder / "out_of_fold" / "metrics.csv")
    logs = [folder.with_name(f"{folder.name}-{step}.log").read_text().splitlines() for step in steps]
    return {"fold": int(folder.name.removeprefix("fold")), "cases": len(rows), "dice": mean_dice(rows), "rows": rows,
            "evaluated": json.loads((folder / "out_of_fold" / "evaluated.json").read_text()),
            "commands": [without_places(line[2:]) for lines in logs for line in lines if line.startswith("$ ")]}


def mean_dice(rows: list[dict[str, Any]]) -> float:
    return sum(row["dice"] for row in rows) / len(rows)


def evaluated(folder: Path) -> list[Path]:
    """Return the folders of the evaluated folds of a seed, or of all together."""
    return sorted(path.parents[1] for path in folder.glob("fold*/out_of_fold/evaluated.json"))


def seeds_in(output: Path) -> list[int]:
    """Return the seeds of which a fold is evaluated."""
    found = (re.fullmatch(r"seed(\d+)", path.name) for path in output.glob("seed*"))
    seeds = sorted(int(match[1]) for match in found if match and evaluated(output / match[0]))
    if not seeds:
        raise UserError(f"{output}: no evaluated fold of a seed in it, expected the --output_dir of cross_validate.py")
    return seeds


def check_together(output: Path, runs: list[dict[str, Any]], together: list[dict[str, Any]]) -> None:
    """Check that what the networks of all seeds did together is of these runs, and of the same cases.

    Raises:
        UserError: a fold is not evaluated everywhere, or by other networks, settings or cases.
    """
    for seed in sorted({run["seed"] for run in runs}):
        missing = {fold["fold"] for fold in together} ^ {run["fold"] for run in runs if run["seed"] == seed}
        if missing:
            raise UserError(f"{output}: fold {', '.join(map(str, sorted(missing)))} is evaluated in one of seed{seed} "
                            "and together, expected the same folds in both; repeat cross_validate.py with --seeds and "
                            "--together, or take one seed with --seed")
    for fold in together:
        members = [run["evaluated"] for run in runs if run["fold"] == fold["fold"]]
        networks = {name: digest for member in members for name, digest in member["checkpoints"].items()}
        for member in members:
            wanted = {**member, "checkpoints": networks}
            if fold["evaluated"] != wanted:
                raise UserError(f"{output / 'together'}/fold{fold['fold']}: evaluated as {fold['evaluated']}, expected "
                                f"{wanted} as the seeds are; repeat cross_validate.py with --seeds and --together")


def draw(runs: list[dict[str, Any]]) -> Figure:
    """Return the curves of training loss and validation Dice, a line a run, those of a fold in one colour."""
    figure = Figure(figsize=(9, 3.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    loss, dice = figure.subplots(1, 2)
    for run in runs:
        curve, first = run["curve"], run["seed"] == runs[0]["seed"]
        style = {"color": f"C{run['fold']}", "linewidth": 1.2, "alpha": 1.0 if first else 0.5}
        label = f"fold {run['fold']}" if first else None
        loss.plot(range(1, len(curve["loss"]) + 1), curve["loss"], label=label, **style)
        dice.plot(curve["epoch"], curve["val_dice"], marker="o", markersize=3, **style)
    paler = "; further seeds paler" if len({run["seed"] for run in runs}) > 1 else ""
    for axes, title in ((loss, "Training loss"), (dice, f"Validation Dice, mean of the classes{paler}")):
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.grid(color="#e3e7ee")
        axes.spines[["top", "right"]].set_visible(False)
    loss.legend(frameon=False, fontsize=8)
    return figure


@entry_point
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("name")
    parser.add_argument("--seed", type=int, help="this one alone (default: all of which a fold is evaluated)")
    args = parser.parse_args(argv)
    seeds = seeds_in(args.output_dir)
    if args.seed is not None and args.seed not in seeds:
        raise UserError(f"--seed {args.seed}: no evaluated fold of it in {args.output_dir}, expected one of {seeds}")
    seeds = seeds if args.seed is None else [args.seed]
    runs = [read_fold(folder) for seed in seeds for folder in evaluated(args.output_dir / f"seed{seed}")]
    together = []
    if len(seeds) > 1:
        together = [read_evaluation(folder, "eval") for folder in evaluated(args.output_dir / "together")]
        check_together(args.output_dir, runs, together)
    rows = [row for fold in together or runs for row in fold["rows"]]
    own = {seed: mean_dice([row for run in runs if run["seed"] == seed for row in run["rows"]]) for seed in seeds}
    metrics = (*METRICS, *class_metrics(classes_of(rows)))
    values = {metric.key: statistics(rows, metric.key) for metric in metrics}
    recipe = {**runs[0]["recipe"], "pretrained": without_place(runs[0]["recipe"].get("pretrained", ""))}
    for fold in (*runs, *together):
        fold.pop("recipe", None)
        del fold["rows"], fold["evaluated"]
    write_json(ROOT / "benchmarks" / "results" / f"accuracy_{args.name}.json", {
        **environment(), "versions": package_versions(), "recipe_name": runs[0]["recipe_name"], "recipe": recipe,
        "of_folds": recipe["folds"], "cases": len(rows), "out_of_fold": values, "folds": runs,
        **({"together": together, "dice_by_seed": own} if together else {}),
        "dice_by_case": {row["case_id"]: row["dice"] for row in rows}})
    draw(runs).savefig(ROOT / "docs" / "images" / f"accuracy_{args.name}.png", metadata={"Software": None})
    shown = [metric for metric in metrics if metric.key in values]
    print(text_table(["metric", "mean", "sd", "median", "worst case"], [
        [metric.title, *(metric.text(values[metric.key][key]) for key in ("mean", "sd", "median")),
         metric.text(values[metric.key]["min" if metric.key.startswith(("dice", "iou")) else "max"])]
        for metric in shown], []))


if __name__ == "__main__":
    sys.exit(main())
