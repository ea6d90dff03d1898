"""Start ranks and end all when one fails: `python scripts/run_ranks.py --log_dir D [--devices 0,1] COMMAND ...`.

COMMAND is msrun or mpirun with its arguments, or with --devices the program of one rank; see src/launch.py. `{port}` in
it becomes the port of MASTER_PORT, or a free one. The launch scripts call this; it exits with the code of the rank that
failed, or with 2 for what can be mended.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.errors import entry_point
from src.launch import run_ranks
from src.log import setup_logging
from src.ranks import address_of, check_port, free_port


@entry_point
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log_dir", type=Path, required=True, help="folder for the logs of the ranks")
    parser.add_argument("--devices", type=lambda text: text.split(","), default=[], help="start a process a device")
    parser.add_argument("--listen", metavar="HOST", help="refuse to start unless the port and the next are free there")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    setup_logging()
    if args.devices:  # HCCL's rank table says where they meet
        return run_ranks(args.command, args.log_dir, args.devices)
    port = int(os.environ.setdefault("MASTER_PORT", str(free_port())))
    for number in (port, port + 1) if args.listen else ():
        check_port(address_of(args.listen), number)
    return run_ranks([item.replace("{port}", str(port)) for item in args.command], args.log_dir)


if __name__ == "__main__":
    sys.exit(main())
