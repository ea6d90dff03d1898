"""Say what a data set is like, propose settings: `python plan.py --data_path D --split_file_path F`; see README.md."""

import argparse
import sys
from pathlib import Path

from src.data import TASKS, get_task, msd
from src.data.fingerprint import take_fingerprint
from src.data.memory import available_memory_gib
from src.data.proposal import propose
from src.data.split import split_problems
from src.errors import UserError, entry_point
from src.files import write_json
from src.log import setup_logging
from src.recipe_rules import SLICE_TASKS


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_path", type=Path, required=True,
                        help="folder that holds img/ and gt/, or imagesTr/ and labelsTr/")
    parser.add_argument("--split_file_path", type=Path,
                        help="the training split, one image file name a line (default: all cases of the folder)")
    parser.add_argument("--task", choices=[name for name in TASKS if name not in ("brain_tumour", *SLICE_TASKS)],
                        help="data set layout (default: by the folders)")
    parser.add_argument("--memory_gib", type=float, help="that training may take (default: what is available now)")
    parser.add_argument("--output", type=Path, metavar="FILE.json",
                        help="write the proposal for train.py --config, and the fingerprint beside it")
    return parser.parse_args(argv)


@entry_point
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    setup_logging()
    if args.memory_gib is not None and not args.memory_gib > 0:
        raise UserError(f"--memory_gib is {args.memory_gib:g}, expected a number above 0")
    if args.output is not None and args.output.suffix != ".json":
        raise UserError(f"--output {args.output}: expected a file name that ends in .json")
    task = args.task or ("hippocampus" if (args.data_path / msd.IMAGE_FOLDER).is_dir() else "promise12")
    module = get_task(task)
    names, problems = ((module.all_names(args.data_path), []) if args.split_file_path is None
                       else split_problems(args.split_file_path))
    fingerprint = take_fingerprint(module, args.data_path, names, problems)
    memory = available_memory_gib() if args.memory_gib is None else args.memory_gib
    print("", *fingerprint.lines(), "", sep="\n")
    proposal = propose(fingerprint, memory, task)
    print(*proposal.lines(), sep="\n")
    if args.output is not None:
        beside = args.output.with_name(f"{args.output.stem}.fingerprint.json")
        write_json(args.output, proposal.settings)
        write_json(beside, fingerprint.to_json() | {"proposal": proposal.settings, "reasons": proposal.reasons,
                                                    "steps": proposal.steps, "estimated_gib": proposal.memory_gib})
        print("", f"proposal: {args.output}, for python train.py --config {args.output}", f"fingerprint: {beside}",
              sep="\n")


if __name__ == "__main__":
    sys.exit(main())
