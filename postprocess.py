"""Score a model's answers to preprocess.py's bins, as eval.py does: masks, tables, report, metrics; see README.md.

Each answer is `CASE_0.bin` in --result_path: float32 probability (1, X, Y, Z), or (1, C, X, Y, Z) of C > 2 classes.
"""

import argparse
import sys
from pathlib import Path

from src.errors import entry_point
from src.inference.bins import evaluate_results
from src.log import setup_logging


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_path", type=Path, required=True, help="folder of the cases, as for preprocess.py")
    parser.add_argument("--split_file_path", type=Path, required=True, help="one case a line, as for preprocess.py")
    parser.add_argument("--result_path", type=Path, default=Path("result_Files"),
                        help="folder of the answers (default: %(default)s)")
    parser.add_argument("--preprocess_dir", type=Path, default=Path("preprocess_Result"),
                        help="folder of the bins and cases.json (default: %(default)s)")
    parser.add_argument("--output_dir", type=Path, default=Path("postprocess_Result"),
                        help="folder for tables, report and masks, named as eval.py names them (default: %(default)s)")
    return parser.parse_args(argv)


@entry_point
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    setup_logging()
    evaluate_results(args.data_path, args.split_file_path, args.result_path, args.preprocess_dir, args.output_dir)


if __name__ == "__main__":
    sys.exit(main())
