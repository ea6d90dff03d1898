"""Train a network: `python train.py --data_path D --train_split_file_path F`; see README.md for all commands."""

import argparse
import logging
import sys

from src.arguments import add_device_arguments, add_recipe_arguments
from src.backend import create_backend
from src.config import DEFAULT_RECIPE
from src.errors import UserError, entry_point
from src.log import setup_logging
from src.overrides import load_recipe
from src.ranks import check_world_size
from src.training.build import build_trainer, check_data
from src.training.plan import RunPlan, new_plan, resumed_plan, with_epochs

logger = logging.getLogger("train")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", help=f"a name in src/config.py (default: {DEFAULT_RECIPE})")
    add_recipe_arguments(parser)
    parser.add_argument("--epochs", type=int, help="in place of the recipe's; with --resume, extends a run")
    add_device_arguments(parser)
    parser.add_argument("--run_distribute", type=int, default=0, choices=(0, 1))
    parser.add_argument("--device_num", type=int, default=1, help="number of ranks with --run_distribute 1")
    parser.add_argument("--data_path", help="folder of the data set")
    parser.add_argument("--train_split_file_path", help="one case a line, see scripts/create_csv.sh")
    parser.add_argument("--val_split_file_path", help="default: val.csv beside the training split")
    parser.add_argument("--run_dir", help="where the run writes (default: runs/RECIPE-DATE-TIME)")
    parser.add_argument("--resume", metavar="RUN_DIR", help="continue the run in this folder")
    parser.add_argument("--check_data", action="store_true", help="check every case and exit: 0, or 2 with problems")
    return parser.parse_args(argv)


def make_plan(args: argparse.Namespace) -> RunPlan:
    if args.resume is None:
        if args.run_distribute and not args.run_dir:
            raise UserError("--run_distribute 1 needs --run_dir, since all ranks have to write to one folder")
        name = args.recipe or DEFAULT_RECIPE
        plan = new_plan(name, load_recipe(name, args.config, args.set), args.data_path, args.train_split_file_path,
                        args.val_split_file_path, args.run_dir)
        return with_epochs(plan, args.epochs)
    plan = resumed_plan(args.resume, args.epochs, args.data_path, args.train_split_file_path)
    if args.set or args.config or args.recipe or args.run_dir or args.val_split_file_path:
        raise UserError("--resume takes the run's own recipe, splits and folder: leave out --set, --config, --recipe, "
                        "--run_dir and --val_split_file_path")
    return plan


@entry_point
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    setup_logging()
    plan = make_plan(args)
    if args.check_data:
        return check_data(plan)
    if args.run_distribute and not plan.problems and plan.recipe.get("parallel") != "pipeline":
        check_world_size(args.device_num, len(plan.train_names))
    backend = create_backend(args.device_target, args.device_id, bool(args.run_distribute), args.device_num,
                             plan.recipe, {"cases": plan.split_hash(), "resumed": plan.resumed})
    log_name = "train.log" if backend.world_size == 1 else f"train_rank{backend.rank}.log"
    setup_logging(plan.run_dir / log_name, quiet=not backend.is_main)
    check_data(plan, backend)
    trainer = build_trainer(plan, backend)
    if trainer.finished:
        logger.info("%s is done: %d of %d epochs%s; --epochs N with a larger N extends it", plan.run_dir,
                    trainer.state.epoch, plan.recipe.epochs, ", stopped early" * trainer.state.stopped_early)
        return None
    if backend.is_main:
        plan.save(backend.describe(), vars(args))
    state = trainer.fit()
    best = f", best validation dice {state.best_dice:.4f} at epoch {state.best_epoch}" if state.best_epoch else ""
    logger.info("done: %d epochs%s, checkpoints in %s", state.epoch, best, plan.checkpoint_folder)
    return None


if __name__ == "__main__":
    sys.exit(main())
