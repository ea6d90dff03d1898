"""Write train.csv and val.csv: `python scripts/create_csv.py OUT_PATH RANDOM [--data_path D] [--fold K --folds N]`."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.data import brain_tumour, prostate
from src.data.split import PROMISE12_VALIDATION, fold_split, holdout_split, random_split, write_split
from src.errors import UserError, entry_point

PROMISE12_CASES = 50


@entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out_path", type=Path, metavar="OUT_PATH", help="folder for train.csv and val.csv")
    parser.add_argument("random", type=int, choices=(0, 1), metavar="RANDOM",
                        help=f"0: validate on the case numbers {' '.join(map(str, PROMISE12_VALIDATION))}; "
                             "1: draw 10 of 50, or one fifth of what is there")
    parser.add_argument("--data_path", type=Path, help="take the cases found there, not PROMISE12's 50")
    parser.add_argument("--seed", type=int, default=1, help="of the draw and of the folds (default 1)")
    parser.add_argument("--fold", type=int, help="validate on this fold (from 0) of a cross-validation")
    parser.add_argument("--folds", type=int, help="number of folds (default 5)")
    arguments = parser.parse_args()
    if arguments.folds is not None and arguments.fold is None:
        raise UserError("--folds needs --fold, the number of the fold to validate on")
    if arguments.fold is not None and arguments.random == 0:
        raise UserError("--fold draws cases by seed; give RANDOM 1 with it")

    if arguments.data_path is None:
        names = [f"Case{number:02d}.mhd" for number in range(PROMISE12_CASES)]
        print(f"cases: {names[0]} to {names[-1]} of PROMISE12; --data_path takes those of a folder")
    else:
        is_msd = (arguments.data_path / brain_tumour.IMAGE_FOLDER).is_dir()
        names = (brain_tumour if is_msd else prostate).all_names(arguments.data_path)
    if arguments.fold is not None:
        folds = 5 if arguments.folds is None else arguments.folds
        train, validation = fold_split(names, arguments.fold, folds, arguments.seed)
    elif arguments.random:
        train, validation = random_split(names, max(1, round(len(names) / 5)), arguments.seed)
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
