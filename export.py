"""Export a checkpoint: `python export.py --ckpt_file C --file_name vnet --file_format MINDIR`; see README.md.

Writes NAME.mindir (or .onnx, .air) and the bundle folder NAME_bundle, which predict.py and other programs read. The
exported network computes with MindSpore's operators in fp32; the log says how far the CPU kernels, which train and
predict here, are from it on a real case, or a generated picture.
"""

import argparse
import logging
import sys
from pathlib import Path

from src.arguments import add_device_arguments, add_recipe_arguments
from src.backend import create_backend
from src.errors import entry_point
from src.inference.export import FORMATS, check_formats, export_checkpoint, links_beside
from src.log import setup_logging
from src.overrides import read_changes

logger = logging.getLogger("export")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt_file", type=Path, required=True, help="checkpoint to export")
    parser.add_argument("--file_name", help="path and stem of the output (default: vnet, or unet of a U-Net's recipe)")
    parser.add_argument("--file_format", nargs="+", default=["MINDIR"], choices=FORMATS,
                        help="one or more; AIR on Ascend only (default: MINDIR)")
    add_device_arguments(parser)
    parser.add_argument("--batch_size", type=int, default=1, help="of the fixed input (default: %(default)s)")
    parser.add_argument("--dynamic_shape", type=int, nargs="?", const=1, default=0, choices=(0, 1),
                        help="1: write also NAME_dynamic.mindir, for volumes of any size in multiples of 16")
    parser.add_argument("--data_path", type=Path, help="folder of the data set, for the real case to compare on, whose "
                        "image goes into the bundle (default: the public data/sample; of pictures a generated one)")
    add_recipe_arguments(parser, "; the others are the checkpoint's own")
    return parser.parse_args(argv)


@entry_point
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    setup_logging()
    dynamic = bool(args.dynamic_shape)
    check_formats(args.file_format, args.device_target, dynamic)
    create_backend(args.device_target, args.device_id)
    folder = export_checkpoint(args.ckpt_file, args.file_name, args.file_format, args.batch_size, args.data_path,
                               args.device_target, read_changes(args.config, args.set), dynamic)
    beside = links_beside(folder.name.removesuffix("_bundle"), args.file_format, dynamic)
    logger.info("done: %s, and beside it %s", folder, ", ".join(map(str, beside.values())))


if __name__ == "__main__":
    sys.exit(main())
