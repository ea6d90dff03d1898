"""Segment cases without labels: `python predict.py --bundle B --input FILE_OR_FOLDER --output FOLDER`; see README.md.

Exits 2 when a case could not be predicted, after all others were.
"""

import argparse
import sys
from pathlib import Path

from src.arguments import add_device_arguments, add_recipe_arguments
from src.backend import create_backend
from src.errors import entry_point
from src.inference.source import load_bundle_source, load_checkpoint_source
from src.inference.volumes import predict_volumes
from src.log import setup_logging
from src.overrides import read_changes


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--ckpt_path", type=Path, nargs="+", metavar="CKPT",
                        help="checkpoint to predict with; of several, an ensemble, the mean probability counts")
    source.add_argument("--bundle", type=Path, help="bundle folder of export.py to predict with")
    parser.add_argument("--input", type=Path, required=True,
                        help="a MetaImage or NIfTI volume, or a folder of them (folders in it are not searched); of "
                             "LGG a patient's folder, or one of such; of DRIVE and EM a picture, a TIFF stack, or a "
                             "folder of them")
    parser.add_argument("--output", type=Path, required=True,
                        help="folder for report.html and the masks: STEM_test.SUFFIX, of pictures STEM_test.png, of "
                             "LGG PATIENT/NAME_k_mask.tif")
    add_device_arguments(parser)
    add_recipe_arguments(parser, "; with --ckpt_path only")
    args = parser.parse_args(argv)
    if args.bundle and (args.config or args.set):
        parser.error("--config and --set go with --ckpt_path: a bundle is sealed")
    return args


@entry_point
def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    setup_logging()
    create_backend(args.device_target, args.device_id)
    source = (load_bundle_source(args.bundle) if args.bundle else
              load_checkpoint_source(args.ckpt_path, read_changes(args.config, args.set)))
    predict_volumes(source.predictor, source.manager, args.input, args.output, source.recipe, source.title,
                    source.postprocess)


if __name__ == "__main__":
    sys.exit(main())
