"""Measure how fast a recipe trains and predicts: `python benchmark.py --output_dir D`; see README.md for all commands.

Each combination of phase, mode, precision, batch size and number of ranks runs in processes of its own.
"""

import argparse
import logging
import sys
from pathlib import Path

from src.arguments import add_device_arguments, add_recipe_arguments
from src.benchmark.plan import MODES, PHASES, PRECISIONS, plan_jobs
from src.benchmark.report import TABLE_NAME, write_results
from src.benchmark.run import run_jobs
from src.errors import UserError, entry_point
from src.log import setup_logging

logger = logging.getLogger("benchmark")


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="unet2d_em", help="a name in src/config.py (default: %(default)s)")
    add_recipe_arguments(parser)
    add_device_arguments(parser)
    parser.add_argument("--phases", type=words, default=list(PHASES), help="of train,infer (default: both)")
    parser.add_argument("--modes", type=words, default=list(MODES), help="of graph,eager (default: both)")
    parser.add_argument("--precisions", type=words, default=["fp32"],
                        help=f"of {','.join(PRECISIONS)}; O2 and O3 are fp16 with dynamic loss scaling (default: fp32)")
    parser.add_argument("--batch_sizes", type=words, default=[], help="of each rank, as 1,4 (default: the recipe's)")
    parser.add_argument("--warmup", type=int, default=3, help="untimed iterations; the first compiles (default: 3)")
    parser.add_argument("--iterations", type=int, default=20, help="timed iterations (default: 20)")
    parser.add_argument("--device_num", type=int, default=1, help="ranks under msrun, compared with one (default: 1)")
    parser.add_argument("--data_path", type=Path, help="data set whose pictures are taken (default: random numbers)")
    parser.add_argument("--graph_kernels", action="store_true", help="fuse operators, on Ascend and GPU")
    parser.add_argument("--output_dir", type=Path, default=Path("results/benchmark"), help="(default: %(default)s)")
    parser.add_argument("--run_job", type=Path, help=argparse.SUPPRESS)  # as a rank of the job in this folder
    return parser.parse_args(argv)


@entry_point
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    setup_logging()
    if args.run_job is not None:
        from src.benchmark.worker import work  # all of training, which the process that measures has no use for

        work(args.run_job)
        return
    if not all(size.isdecimal() for size in args.batch_sizes):
        raise UserError(f"--batch_sizes: found {','.join(args.batch_sizes)}, expected whole numbers such as 1,4")
    if args.data_path is not None and not args.data_path.is_dir():
        raise UserError(f"--data_path {args.data_path}: no such folder; leave it out for random numbers")
    jobs = plan_jobs(args.recipe, args.config, args.set, args.phases, args.modes, args.precisions,
                     [int(size) for size in args.batch_sizes], args.device_num, device_target=args.device_target,
                     device_id=args.device_id, warmup=args.warmup, iterations=args.iterations,
                     data_path=str(args.data_path.resolve()) if args.data_path else "",
                     graph_kernels=args.graph_kernels)
    results = run_jobs(jobs, args.output_dir / "logs")
    write_results(args.output_dir, results, {
        "title": f"{args.recipe} on {args.device_target}, {args.data_path or 'random numbers'}",
        "command": " ".join(["python", "benchmark.py", *(sys.argv[1:] if argv is None else argv)]),
        "recipe": args.recipe, "settings": jobs[0].recipe, "warmup": args.warmup, "iterations": args.iterations})
    if not any(result["status"] == "measured" for result in results):
        raise UserError(f"nothing was measured; {args.output_dir / TABLE_NAME} says of each setting why")
    logger.info("figures, table, chart and logs: %s", args.output_dir)


if __name__ == "__main__":
    sys.exit(main())
