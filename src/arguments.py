"""Command line arguments that several entry scripts share; parsing them stays with the scripts."""

import argparse

from src.backend import DEVICE_TARGETS


def add_device_arguments(parser: argparse.ArgumentParser, *id_names: str) -> None:
    """Add `--device_target`, and the device's number under `id_names` (`--device_id` by default)."""
    parser.add_argument("--device_target", default="CPU", choices=DEVICE_TARGETS, help="(default: %(default)s)")
    parser.add_argument(*(id_names or ("--device_id",)), type=int, default=0, help="number of the card (default: 0)")


def add_recipe_arguments(parser: argparse.ArgumentParser, note: str = "") -> None:
    """Add `--config` and `--set`, whose values `overrides.read_changes` reads; `note` goes behind their help."""
    parser.add_argument("--config", metavar="FILE.json", help=f"recipe keys to override{note}")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                        help=f"recipe keys to override, after --config{note}")
