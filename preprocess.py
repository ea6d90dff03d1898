"""Write cases as a network's input: `python preprocess.py --bundle B --data_path D --split_file_path F`, see README.md

A `CASE.bin` is float32 (1, 1, X, Y, Z) without a header. A program runs the model on them, `ascend310_infer` for one,
and postprocess.py scores what it answers; scripts/run_infer_310.sh does all of it.
"""

import argparse
import sys
from pathlib import Path

from src.arguments import add_recipe_arguments
from src.config import DEFAULT_RECIPE, RECIPES
from src.errors import entry_point
from src.inference.bins import recipe_of_bundle, write_bins
from src.log import setup_logging
from src.overrides import load_recipe


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_path", type=Path, required=True, help="folder of the cases, as for eval.py")
    parser.add_argument("--split_file_path", type=Path, required=True, help="one case a line, as for eval.py")
    parser.add_argument("--output_dir", type=Path, default=Path("preprocess_Result"),
                        help="folder for CASE.bin and cases.json, replaced whole (default: %(default)s)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--bundle", type=Path, help="bundle folder of export.py, which says how to preprocess")
    source.add_argument("--recipe", default=DEFAULT_RECIPE, choices=sorted(RECIPES),
                        help="what says so without a bundle (default: %(default)s)")
    add_recipe_arguments(parser, "; without --bundle only")
    args = parser.parse_args(argv)
    if args.bundle and (args.config or args.set):
        parser.error("--config and --set go without --bundle: a bundle is sealed")
    return args


@entry_point
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    setup_logging()
    recipe, name, model = load_recipe(args.recipe, args.config, args.set), args.recipe, {}
    if args.bundle:
        recipe, name, model = recipe_of_bundle(args.bundle)
    write_bins(recipe, name, args.data_path, args.split_file_path, args.output_dir, model)


if __name__ == "__main__":
    sys.exit(main())
