"""Write train.csv and val.csv: `python scripts/create_csv.py OUT_PATH RANDOM [--data_path D [--task T]]`.

The validation cases are fixed (RANDOM 0: PROMISE12's, or DRIVE's test pictures), a share of all drawn by seed (RANDOM
1), or a fold (--fold K --folds N).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.data import TASKS, drive, get_task, guess_task, lgg
from src.data.split import PROMISE12_VALIDATION, fold_split, holdout_split, random_split, write_split
from src.errors import UserError, entry_point

PROMISE12_CASES = 50


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_path", type=Path, metavar="OUT_PATH", help="folder for train.csv and val.csv")
    parser.add_argument("random", type=int, choices=(0, 1), metavar="RANDOM",
                        help=f"0: validate on the case numbers {' '.join(map(str, PROMISE12_VALIDATION))}, or with "
                             "DRIVE on its test pictures; 1: draw one fifth, of PROMISE12's 50 cases or of what is "
                             "there, and of LGG's patients a sixth, at most 10")
    parser.add_argument("--data_path", type=Path, help="take the cases found there, not PROMISE12's 50")
    parser.add_argument("--task", choices=TASKS, help="data set layout of --data_path (default: by its folders)")
    parser.add_argument("--validation_share", type=float, help="of the cases, in place of the above")
    parser.add_argument("--seed", type=int, default=1, help="of the draw and of the folds (default 1)")
    parser.add_argument("--fold", type=int, help="validate on this fold (from 0) of a cross-validation")
    parser.add_argument("--folds", type=int, help="number of folds (default 5)")
    arguments = parser.parse_args()
    if arguments.folds is not None and arguments.fold is None:
        raise UserError("--folds needs --fold, the number of the fold to validate on")
    if arguments.fold is not None and arguments.random == 0:
        raise UserError("--fold draws cases by seed; give RANDOM 1 with it")

    share = arguments.validation_share
    if arguments.validation_share is not None and (arguments.fold is not None or arguments.random == 0):
        raise UserError("--validation_share draws cases by seed; give RANDOM 1 with it, and no --fold")
    if share is not None and not 0 < share < 1:
        raise UserError(f"--validation_share is {share:g}, expected a number between 0 and 1, such as 0.2")
    if arguments.task and arguments.data_path is None:
        raise UserError("--task needs --data_path, the folder whose cases are listed")

    if arguments.data_path is None:
        names = [f"Case{number:02d}.mhd" for number in range(PROMISE12_CASES)]
        print(f"cases: {names[0]} to {names[-1]} of PROMISE12; --data_path takes those of a folder")
        task = "promise12"
    else:
        task = arguments.task or guess_task(arguments.data_path)
        names = get_task(task).all_names(arguments.data_path)
    if arguments.fold is not None:
        folds = 5 if arguments.folds is None else arguments.folds
        train, validation = fold_split(names, arguments.fold, folds, arguments.seed)
    elif arguments.random:
        count = (lgg.validation_count(len(names)) if task == "lgg" and share is None else
                 max(1, round(len(names) * (share or 0.2))))
        train, validation = random_split(names, count, arguments.seed)
    elif task == "drive":
        train, validation = drive.own_division(arguments.data_path)
    elif task in ("lgg", "em"):
        raise UserError(f"the data set {task} has no fixed validation cases; give RANDOM 1")
    else:
        train, validation = holdout_split(names)
        if len(validation) < len(PROMISE12_VALIDATION):
            print(f"note: only {len(validation)} of the {len(PROMISE12_VALIDATION)} fixed validation cases are "
                  f"in {arguments.data_path}", file=sys.stderr)
    for file, part in (("train.csv", train), ("val.csv", validation)):
        write_split(arguments.out_path / file, part)
        print(f"{arguments.out_path / file}: {len(part)} cases")


if __name__ == "__main__":
    sys.exit(main())
