"""Evaluate a checkpoint: `python eval.py --ckpt_path C --data_path D --eval_split_file_path F`; see README.md."""

import argparse
import sys
from pathlib import Path

from src.arguments import add_device_arguments, add_recipe_arguments
from src.backend import create_backend
from src.data.split import split_hash, split_problems
from src.errors import entry_point
from src.inference.compose import load_predictor
from src.inference.output import evaluate_split, output_folders, require_output_dir
from src.log import setup_logging
from src.overrides import read_changes


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_device_arguments(parser, "--dev_id", "--device_id")
    parser.add_argument("--ckpt_path", type=Path, nargs="+", required=True, metavar="CKPT",
                        help="checkpoint to evaluate; several are evaluated as one ensemble, their mean probability")
    parser.add_argument("--data_path", type=Path, required=True, help="folder of the cases, as for train.py")
    parser.add_argument("--eval_split_file_path", type=Path, required=True, help="one case a line, as for train.py")
    parser.add_argument("--output_dir", type=Path,
                        help="default: the checkpoint's run folder, else the recipe's dirResult and "
                             "dirPredictionImage; several checkpoints need it")
    parser.add_argument("--save_predictions", type=int, nargs="?", const=1, default=1, choices=(0, 1),
                        help="write the masks, and pictures of each case where the scoring has them (default: 1)")
    parser.add_argument("--run_distribute", type=int, default=0, choices=(0, 1), help="1: under msrun, share the cases")
    parser.add_argument("--device_num", type=int, default=1, help="number of ranks with --run_distribute 1")
    add_recipe_arguments(parser, "; the others are the checkpoint's own")
    return parser.parse_args(argv)


@entry_point
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    setup_logging()
    require_output_dir(args.ckpt_path, args.output_dir)
    changes = read_changes(args.config, args.set)
    names, _ = split_problems(args.eval_split_file_path)  # told below, with those of the cases
    agreed = {"cases": split_hash(names), "checkpoints": [path.name for path in args.ckpt_path], **changes}
    backend = create_backend(args.device_target, args.dev_id, bool(args.run_distribute), args.device_num,
                             settings=agreed)
    setup_logging(quiet=not backend.is_main)
    predictor, recipe, checkpoints = load_predictor(args.ckpt_path, changes)
    folders = output_folders(args.ckpt_path[0], recipe, args.output_dir)
    evaluate_split(predictor, recipe, checkpoints, args.data_path, args.eval_split_file_path, folders,
                   bool(args.save_predictions), backend)


if __name__ == "__main__":
    sys.exit(main())
