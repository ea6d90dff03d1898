"""Weights to begin a training with: those of another run, or of ImageNet for the encoder of the ResNet-34 U-Net."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindspore import nn

from src.checkpoint import load_checkpoint, load_newest, load_parameters
from src.errors import UserError
from src.networks import ResNet34UNet
from src.networks.pretrained import load_encoder

logger = logging.getLogger(__name__)


def start_from_pretrained(network: nn.Cell, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give a network that is to be trained from the beginning the weights of the recipe's `pretrained`, if it has one.

    Apart from `build_network`, since a network that is resumed, evaluated or exported gets all its weights from a
    checkpoint: that file need not be there any more. `{fold}` and `{seed}` in the path stand for the recipe's.

    Returns:
        What the other run's checkpoint says about it, such as its `train_names`; empty where there is none.

    Raises:
        UserError: as `load_pretrained`.
    """
    text = recipe.get("pretrained")
    if not text:
        return {}
    for key in ("fold", "seed"):
        text = text.replace(f"{{{key}}}", str(recipe[key]))
    return load_pretrained(network, Path(text).expanduser())


def load_pretrained(network: nn.Cell, path: Path) -> Mapping[str, Any]:
    """Copy weights from a file into `network`.

    Args:
        network: of the same recipe as the file's, as far as the network goes; or a `ResNet34UNet`.
        path: checkpoint of another run, whose averaged weights are taken where it has them, or its run folder, for the
            newest one in it. For a ResNet-34 U-Net an ImageNet ResNet-34 as well, see `load_encoder`.

    Returns:
        What the checkpoint says about its run; empty for weights of another program.

    Raises:
        UserError: the file cannot be read, or its parameters are not the network's.
    """
    if path.is_dir():
        checkpoint = load_newest(path / "ckpt")
        if checkpoint is None:
            raise UserError(f"pretrained {path}: found no checkpoint in its folder ckpt, expected a run folder or a "
                            "checkpoint; check recipe key 'pretrained'")
    elif isinstance(network, ResNet34UNet) and not is_own(path):
        load_encoder(network, path)
        return {}
    else:
        checkpoint = load_checkpoint(path)
    load_parameters(checkpoint, network)
    logger.info("pretrained %s: the weights of epoch %s", checkpoint.path, checkpoint.state.get("epoch", "unknown"))
    return checkpoint.state


def is_own(path: Path) -> bool:
    """Whether a file is a checkpoint that a run of this program wrote; False where it cannot be read."""
    try:
        return path.suffix == ".ckpt" and bool(load_checkpoint(path).state)
    except UserError:
        return False
