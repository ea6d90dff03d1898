"""Measure what the README says of its two commands, in a fresh clone with a fresh virtual environment.

    python benchmarks/quickstart.py [--runs 2] [--skip_tests] [--output benchmarks/results/quickstart.json]

Only the standard library is used, so that any Python 3.11 can start it. The clone is of the last commit.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from src.machine import environment

RESULT = re.compile(r"^dice=([\d.]+) hausdorff=([\d.]+) seconds=(\d+)$", re.MULTILINE)


def timed(command: list[str], folder: Path) -> tuple[float, str]:
    """Run a command in `folder` and return its wall time in seconds and its output; a failure ends the benchmark."""
    variables = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH", "VENV")}
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)
    seconds = time.perf_counter() - began
    print(done.stdout[-2000:], flush=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {done.returncode}")
    return seconds, done.stdout


def measure(runs: int, tests: bool) -> dict[str, object]:
    """Return the figures of `runs` quick starts and, if `tests` is set, one test run."""
    with tempfile.TemporaryDirectory(prefix="vnet-quickstart-") as folder:
        clone = Path(folder) / "clone"
        os.environ["VNET_KERNEL_CACHE"] = str(Path(folder) / "kernels")  # as on a machine that has built none yet
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, check=True)
        quick = []
        for number in range(runs):
            wall, output = timed(["bash", "scripts/quickstart.sh"], clone)
            found = RESULT.search(output)
            if found is None:
                raise SystemExit("quickstart.sh printed no line dice=... hausdorff=... seconds=...")
            dice, hausdorff, seconds = (float(value) for value in found.groups())
            quick.append({"dice": dice, "hausdorff_mm": hausdorff, "seconds": seconds,
                          "seconds_with_install": round(wall) if number == 0 else None})
            shutil.rmtree(clone / "runs")
        versions = timed([str(clone / ".venv/bin/python"), "-m", "pip", "list", "--format=json"], clone)[1]
        wall, output = timed(["bash", "scripts/test.sh"], clone) if tests else (0.0, "")
        closing = re.findall(r"^.*\d+ passed.*$", output, re.MULTILINE)
    packages = {item["name"].lower(): item["version"] for item in json.loads(versions[versions.index("["):])}
    return {
        "command": f"python benchmarks/quickstart.py --runs {runs}{'' if tests else ' --skip_tests'}",
        "commit": commit.stdout.strip(),
        **environment(),
        "versions": {name: packages[name] for name in ("mindspore", "numpy", "simpleitk", "scipy")},
        "quickstart": quick,
        "quickstart_median": {key: statistics.median(run[key] for run in quick)
                              for key in ("dice", "hausdorff_mm", "seconds")},
        "test": {"seconds": round(wall), "closing_line": closing[-1].strip() if closing else None} if tests else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/quickstart.json")
    parser.add_argument("--skip_tests", action="store_true", help="measure the quick start alone")
    arguments = parser.parse_args()
    result = measure(arguments.runs, not arguments.skip_tests)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for key, value in result["quickstart_median"].items():
        print(f"{key}={value}")
    if result["test"]:
        print(f"test_seconds={result['test']['seconds']}")


if __name__ == "__main__":
    main()
