"""What single settings change: one fold trained anew for each, all else equal.

    python benchmarks/ablations.py VARIANTS.json --data_path D --split_file_path all.csv --output_dir O [--only NAME]

VARIANTS.json holds `recipe`, `base` (recipe keys of all runs), `fold`, `seeds`, and `variants`: name -> recipe keys
that differ, `{}` for the base itself. Each run goes through
cross_validate.py into O/NAME, so an interrupted one continues when the command is given again, and finished ones are
skipped. The last checkpoint is evaluated. Prints a table and writes O/ablations.json: for each variant the mean over
cases of each metric, for every seed, and the seconds of training.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from src.files import write_json
from src.machine import environment
from src.metrics.text import text_table

METRICS = ("dice", "dice_mean", "hd95", "abd")


def run(args: argparse.Namespace, study: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Train and evaluate a variant; return its figures, one entry a seed."""
    changes = {**study["base"], **study["variants"][name]}
    command = [sys.executable, str(ROOT / "cross_validate.py"), "--recipe", study["recipe"], "--data_path",
               args.data_path, "--split_file_path", args.split_file_path, "--output_dir", str(args.output_dir / name),
               "--only", str(study["fold"]), "--seeds", ",".join(map(str, study["seeds"])), "--set",
               *(f"{key}={json.dumps(value)}" for key, value in changes.items())]
    subprocess.run(command, check=True)
    figures = []
    for seed in study["seeds"]:
        folder = args.output_dir / name / f"seed{seed}" / f"fold{study['fold']}"
        summary = json.loads((folder / "out_of_fold" / "summary.json").read_text())
        history = pd.read_csv(folder / "history.csv")
        figures.append({"seed": seed, **{key: summary[key]["mean"] for key in METRICS if key in summary},
                        "steps": int(history["step"].iloc[-1]), "seconds": float(history["seconds"].sum()),
                        "stall_share": float((history["stall_share"] * history["seconds"]).sum()
                                             / history["seconds"].sum())})
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", type=Path)
    parser.add_argument("--data_path", required=True)
    parser.add_argument("--split_file_path", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these; the table has all that are there")
    args = parser.parse_args()
    study = json.loads(args.variants.read_text())
    output = args.output_dir / "ablations.json"
    results = json.loads(output.read_text())["results"] if output.is_file() else {}
    for name in args.only or study["variants"]:
        results[name] = run(args, study, name)
        write_json(output, {
            "command": "python " + " ".join(["benchmarks/ablations.py", *sys.argv[1:]]), "environment": environment(),
            "study": study, "results": results})
    keys = [key for key in METRICS if all(key in entry for entries in results.values() for entry in entries)]
    body = [[name, *(f"{statistics.mean(entry[key] for entry in entries):.4f}" for key in (*keys, "seconds"))]
            for name, entries in results.items()]
    print(text_table(["variant", *keys, "seconds"], body, []))


if __name__ == "__main__":
    main()
