"""Cross-validate a recipe: `python cross_validate.py --data_path D --split_file_path F --output_dir O`; see README.md.

Repeated, it skips finished folds and resumes an interrupted one.
"""

import argparse
import logging
import sys
from pathlib import Path

from src.arguments import add_device_arguments, add_recipe_arguments
from src.config import DEFAULT_RECIPE
from src.errors import UserError, entry_point
from src.log import setup_logging
from src.training.cross_validation import run_ensemble, run_fold
from src.training.cross_validation_plan import CHECKPOINTS, check_pretrained, check_test_split, plan_cross_validation
from src.training.out_of_fold import collect

logger = logging.getLogger("cross_validate")


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_path", type=Path, required=True, help="folder of the cases, as for train.py")
    parser.add_argument("--split_file_path", type=Path, required=True, help="all cases: one image file name a line")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for all results")
    parser.add_argument("--recipe", default=DEFAULT_RECIPE, help="a name in src/config.py (default: %(default)s)")
    add_recipe_arguments(parser, " of the trainings, in which keep_checkpoint_max is 1 unless given")
    add_device_arguments(parser)
    parser.add_argument("--folds", type=int, help="in place of the recipe's; 2 or more")
    parser.add_argument("--only", type=numbers, metavar="0,2", help="folds to run here (default: all)")
    parser.add_argument("--seeds", type=numbers, default=[1], metavar="1,2", help="of the trainings (default: 1)")
    parser.add_argument("--together", action="store_true",
                        help="evaluate each fold by the mean of its networks of all seeds as well")
    parser.add_argument("--checkpoint", choices=CHECKPOINTS, default="last",
                        help="of each fold's run (default: last; best is chosen on the very cases that are scored)")
    parser.add_argument("--eval_set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                        help="recipe keys to override in evaluations, such as tta=x")
    parser.add_argument("--test_split_file_path", type=Path, help="evaluate all networks together on these cases")
    parser.add_argument("--test_data_path", type=Path, help="their folder (default: --data_path)")
    args = parser.parse_args(argv)
    if args.test_data_path and not args.test_split_file_path:
        parser.error("--test_data_path goes with --test_split_file_path")
    return args


@entry_point
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    setup_logging()
    device = ("--device_target", args.device_target, "--device_id", str(args.device_id))
    plan = plan_cross_validation(args.data_path, args.split_file_path, args.output_dir, args.recipe, args.config,
                                 args.set, args.folds, args.seeds, device=device, checkpoint=args.checkpoint,
                                 eval_changes=tuple(args.eval_set), together=args.together)
    if args.only and not set(args.only) <= set(plan.folds):
        raise UserError(f"--only {args.only}: expected folds from 0 to {len(plan.folds) - 1}")
    if args.test_split_file_path:
        check_test_split(plan, args.test_split_file_path, args.test_data_path)
    check_pretrained(plan, args.only or plan.folds)
    setup_logging(plan.output / "cross_validate.log")
    for seed in plan.groups:
        if seed is None:  # the seeds have their tables, whatever becomes of their networks' mean
            collect(plan)
        for fold in args.only or plan.folds:
            run_fold(plan, seed, fold)
    if collect(plan) is not None and args.test_split_file_path:
        run_ensemble(plan, args.test_split_file_path, args.test_data_path)
    logger.info("results: %s", plan.output)


if __name__ == "__main__":
    sys.exit(main())
