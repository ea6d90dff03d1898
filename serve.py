"""Serve a network by HTTP: `python serve.py --bundle B` or `--ckpt_path C`; see README.md.

POST a volume to /predict and get its mask back in the same kind of file; open / in a browser to look at it. Needs
the packages of requirements-serve.txt.
"""

import argparse
import logging
import math
import sys
from importlib.util import find_spec
from pathlib import Path

from src.arguments import add_device_arguments, add_recipe_arguments
from src.backend import create_backend
from src.errors import UserError, entry_point
from src.inference.source import Source, load_bundle_source, load_checkpoint_source
from src.log import setup_logging
from src.overrides import read_changes
from src.serve.limits import MIB, Limits

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--ckpt_path", type=Path, nargs="+", metavar="CKPT", help="checkpoint; several are an ensemble")
    source.add_argument("--bundle", type=Path, help="bundle folder of export.py")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; there is no password, so other "
                        "machines should come through a proxy that asks for one (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one (default: %(default)s)")
    parser.add_argument("--max_upload_mib", type=float, default=256, help="of a request (default: %(default)s)")
    parser.add_argument("--max_voxels", type=int, default=Limits.voxels,
                        help="of a volume, which takes some 60 bytes a voxel (default: %(default)s)")
    parser.add_argument("--time_limit", type=float, default=Limits.seconds,
                        help="seconds from a request to its answer (default: %(default)s)")
    parser.add_argument("--places", type=int, default=Limits.places,
                        help="requests at a time; the next one gets 503 and when to come again (default: %(default)s)")
    add_device_arguments(parser)
    add_recipe_arguments(parser, "; with --ckpt_path only")
    args = parser.parse_args(argv)
    if args.bundle and (args.config or args.set):
        parser.error("--config and --set go with --ckpt_path: a bundle is sealed")
    for name, factor in {"max_upload_mib": MIB, "max_voxels": 1, "time_limit": 1, "places": 1}.items():
        if not 0 < getattr(args, name) * factor < math.inf:  # which nan is not, either
            parser.error(f"--{name} is {getattr(args, name)}, expected a finite number above 0")
    return args


@entry_point
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    setup_logging()
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(f"serve.py needs {', '.join(missing)}; pip install -r requirements-serve.txt")
    from src.serve.app import create_app
    from src.serve.segmenter import Segmenter
    from src.serve.server import bind, run

    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # what it says while all is well, we say
    limits = Limits(round(args.max_upload_mib * MIB), args.max_voxels, args.time_limit, places=args.places)

    def load() -> Source:
        create_backend(args.device_target, args.device_id)
        if args.bundle:
            return load_bundle_source(args.bundle)
        return load_checkpoint_source(args.ckpt_path, read_changes(args.config, args.set))

    place = bind(args.host, args.port)
    run(create_app(Segmenter(load, limits), limits), place, limits)


if __name__ == "__main__":
    sys.exit(main())
