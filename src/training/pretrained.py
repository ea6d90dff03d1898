"""Weights to begin a training with: those of another run, or of ImageNet for the encoder of the ResNet-34 U-Net."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mindspore import nn

from src.checkpoint import is_own, list_checkpoints, load_checkpoint, load_newest, load_parameters
from src.errors import UserError
from src.networks import ResNet34UNet
from src.networks.pretrained import load_encoder
from src.training.plan import RunPlan

logger = logging.getLogger(__name__)


def start_from_pretrained(network: nn.Cell, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give a network that is to be trained from the beginning the weights of the recipe's `pretrained`, if it has one.

    Apart from `build_network`, since a network that is resumed, evaluated or exported gets all its weights from a
    checkpoint: that file need not be there any more.

    Returns:
        What the other run's checkpoint says about it, such as its `train_names`; empty where there is none.

    Raises:
        UserError: as `pretrained_path` and `load_pretrained`.
    """
    path = pretrained_path(recipe)
    return {} if path is None else load_pretrained(network, path)


def pretrained_path(recipe: Mapping[str, Any]) -> Path | None:
    """Return the run folder or file of the recipe's `pretrained`; `{fold}` and `{seed}` in it stand for the recipe's.

    Raises:
        UserError: there is no such file, or another word stands in braces.
    """
    given = recipe.get("pretrained")
    if given in (None, "", "none"):
        return None
    text = given
    for key in ("fold", "seed"):
        text = text.replace(f"{{{key}}}", str(recipe[key]))
    if unknown := re.findall(r"{\w*}", text):
        raise UserError(f"recipe key 'pretrained': found {', '.join(unknown)} in {given}, expected {{fold}} and "
                        "{seed} alone in braces")
    path = Path(text).expanduser()
    if not path.exists():
        filled = f" (fold {recipe['fold']}, seed {recipe['seed']})" if text != given else ""
        raise UserError(f"recipe key 'pretrained': {path}: no such file or folder{filled}; name a run folder or a "
                        "checkpoint")
    return path


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
        checkpoint = load_newest(path if list_checkpoints(path) else path / "ckpt")
        if checkpoint is None:
            raise UserError(f"recipe key 'pretrained': {path}: found no checkpoint in it or its folder ckpt, expected "
                            "a run folder or a checkpoint; name another")
    elif isinstance(network, ResNet34UNet) and not is_own(path):
        load_encoder(network, path)
        return {}
    elif path.suffix in (".pth", ".pt"):
        raise UserError(f"recipe key 'pretrained': {path}: found weights of PyTorch, expected a run of this network's; "
                        "those of ImageNet are for architecture=resnet34_unet alone")
    else:
        checkpoint = load_checkpoint(path)
    load_parameters(checkpoint, network)
    logger.info("pretrained %s: the weights of epoch %s", checkpoint.path, checkpoint.state.get("epoch", "unknown"))
    return checkpoint.state


def check_unseen(behind: Sequence[Mapping[str, Any]], plan: RunPlan) -> None:
    """Refuse weights that were trained on cases which a run is validated on.

    Cases of another folder only bear their names, perhaps by chance; then a warning says so.

    Args:
        behind: what the weights were trained on, see `cases_behind`.
        plan: of the run that begins with them.

    Raises:
        UserError: a case of the same folder was trained on.
    """
    for run in behind:
        seen = sorted(set(run["train_names"]) & set(plan.validation_names))
        if not seen:
            continue
        named = (f"{len(seen)} of the {len(plan.validation_names)} validation cases ({', '.join(seen[:5])}"
                 f"{', …' * (len(seen) > 5)})")
        folder = Path(run["data_path"])
        if folder.resolve() != plan.data_path.resolve():
            logger.warning("pretrained %s was trained on cases of %s that are named like %s: if they are the same, the "
                           "validation's Dice says nothing", plan.recipe.pretrained, folder, named)
            continue
        raise UserError(f"recipe key 'pretrained': {plan.recipe.pretrained} was trained on {named}, expected none, or "
                        "their Dice would say nothing; name a run with the same split (in a cross-validation with "
                        "{fold} in its path), or change the split")
