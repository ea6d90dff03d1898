"""Networks and losses of a 2-D recipe, trained for real at an equal budget and scored on cases held out.

    python benchmarks/trainings2d.py benchmarks/studies/lgg.json --data_path D --output_dir O [--only NAME ...]

A study names the `recipe`, the arguments of scripts/create_csv.py that divide the cases (`split`), the recipe keys of
all runs (`base`), and `variants`: name -> keys that differ. Each is trained by train.py and its last checkpoint, which
nothing chose, scored by eval.py. A run that was interrupted continues when the command is given again, finished ones
are skipped. Prints a table and writes O/results.json: for each variant the means of the metrics, the Dice of
every case, the steps and the processor time of the training.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from src.checkpoint import list_checkpoints
from src.files import write_json
from src.machine import environment
from src.metrics.text import text_table
from src.report.html import package_versions

PARAMETERS = re.compile(r"(\d+) parameters")


def program(name: str, *arguments: object) -> float:
    """Run one of the repository's programs and return the minutes of processor time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if subprocess.run([sys.executable, str(ROOT / name), *map(str, arguments)], check=False).returncode:
        sys.exit(f"error: {name} failed; what it said stands above. Mend it and repeat the command")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60


def train(study: dict[str, Any], changes: dict[str, Any], data_path: Path, split: Path, run_dir: Path) -> float:
    """Train a variant, or what is left of it; return the minutes of processor time of the part that reached the end."""
    spent = run_dir / "cpu_minutes.json"
    if spent.is_file():
        return json.loads(spent.read_text())
    keys = [f"{key}={json.dumps(value)}" for key, value in {**study["base"], **changes}.items()]
    start = ["--resume", run_dir] if (run_dir / "recipe.json").is_file() else [
        "--recipe", study["recipe"], "--data_path", data_path, "--train_split_file_path", split / "train.csv",
        "--run_dir", run_dir, "--set", *keys]
    minutes = program("train.py", *start)
    write_json(spent, minutes)
    return minutes


def score(run_dir: Path, data_path: Path, split: Path) -> dict[str, Any]:
    """Score the last checkpoint; return the metrics of each case and their means."""
    folder = run_dir / "held_out"
    if not (folder / "summary.json").is_file():
        program("eval.py", "--ckpt_path", list_checkpoints(run_dir / "ckpt")[-1], "--data_path", data_path,
                "--eval_split_file_path", split / "val.csv", "--output_dir", folder)
    summary = json.loads((folder / "summary.json").read_text())
    rows = pd.read_csv(folder / "metrics.csv").set_index("case_id")
    means = {key: entry["mean"] for key, entry in summary.items() if isinstance(entry, dict) and "mean" in entry}
    if (folder / "rand.csv").is_file():
        means |= pd.read_csv(folder / "rand.csv", index_col="case_id").mean(numeric_only=True).dropna().to_dict()
    return {"mean": means, "dice_of_cases": rows["dice"].round(4).to_dict()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--data_path", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these; the table has all that are there")
    args = parser.parse_args()
    study = json.loads(args.study.read_text())
    if unknown := set(args.only or ()) - set(study["variants"]):
        parser.error(f"--only {', '.join(sorted(unknown))}: expected names of {', '.join(study['variants'])}")
    split = args.output_dir / "split"
    if not split.is_dir():
        program("scripts/create_csv.py", split, "1", "--data_path", args.data_path, *study["split"])
    versions = package_versions()
    output = args.output_dir / "results.json"
    results = json.loads(output.read_text())["results"] if output.is_file() else {}
    for name in args.only or study["variants"]:
        run_dir = args.output_dir / name.replace(" ", "_")
        minutes = train(study, study["variants"][name], args.data_path, split, run_dir)
        history = pd.read_csv(run_dir / "history.csv")
        results[name] = {**score(run_dir, args.data_path, split), "steps": int(history["step"].iloc[-1]),
                         "parameters": int(PARAMETERS.findall((run_dir / "train.log").read_text())[-1]),
                         "training_loss": float(history["loss"].iloc[-1]), "training_cpu_minutes": round(minutes, 2)}
        write_json(output, {
            "command": f"python benchmarks/trainings2d.py benchmarks/studies/{args.study.name} --data_path D "
                       "--output_dir O", "environment": environment(),
            "versions": {name: versions[name] for name in ("mindspore", "numpy")}, "study": study,
            "cases": {part: (split / f"{part}.csv").read_text().split() for part in ("train", "val")},
            "results": results})
    keys = [key for key in next(iter(results.values()))["mean"] if key in ("dice", "iou", "rand_error")]
    body = [[name, *(f"{entry['mean'][key]:.4f}" for key in keys), f"{entry['parameters']:,}",
             f"{entry['training_cpu_minutes']:.1f}"] for name, entry in results.items()]
    print(text_table(["variant", *keys, "parameters", "cpu minutes"], body, []))


if __name__ == "__main__":
    main()
