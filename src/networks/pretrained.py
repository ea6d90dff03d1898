"""ImageNet weights for the encoder of the ResNet-34 U-Net."""

import logging
import re
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from src.errors import UserError
from src.networks.resnet_unet import ResNet34UNet
from src.networks.torch_file import read_torch_file

logger = logging.getLogger(__name__)

_TORCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
# What follows is by the names of torchvision, of MindSpore's model zoo (bn1d, down_sample_layer) and of MindCV
# (down_sample).
_STEM = re.compile(r"(conv|bn)1\.(\w+)")
_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.(conv|bn)([12])d?\.(\w+)")
_SHORTCUT = re.compile(r"layer([1-4])\.(\d+)\.(?:downsample|down_sample|down_sample_layer)\.([01])\.(\w+)")
_FIRST = "encoder.stem.conv.weight"
_SHOWN = 8


def load_encoder(network: ResNet34UNet, path: Path) -> None:
    """Copy an ImageNet ResNet-34 into the encoder of `network`; its classifier is left out.

    Where the image has other than 3 channels, each channel's first convolution is the sum of the red, green and blue
    ones, divided by the number of channels: an image whose channels are alike then gives what a grey RGB image gives.

    Args:
        network: whose decoder stays as it is.
        path: MindSpore's .ckpt (names of its model zoo, or of MindCV), or torchvision's .pth, which is read without
            PyTorch and without executing anything in it.

    Raises:
        UserError: the file cannot be read, is of another kind, lacks parameters or has them in other shapes; the words
            count all of them and name the first.
    """
    found = {}
    for name, values in _read(path).items():
        ours = encoder_name(name)
        if ours is not None:
            found[ours] = values
    wanted = {parameter.name: parameter for parameter in network.get_parameters()
              if parameter.name.startswith("encoder.")}
    missing = [name for name in wanted if name not in found]
    first, channels = found.get(_FIRST), network.channels
    if first is not None and first.ndim == 4 and first.shape[1] == 3 and channels != 3:
        found[_FIRST] = np.repeat(first.sum(1, keepdims=True) / channels, channels, 1)
        logger.info("pretrained %s: its first convolution is for 3 channels, the image has %d: each gets their sum "
                    "divided by %d", path, channels, channels)
    wrong = [f"{name} has shape {found[name].shape}, expected {tuple(parameter.shape)}"
             for name, parameter in wanted.items() if name in found and found[name].shape != tuple(parameter.shape)]
    if missing or wrong:
        problems = [f"{name} is missing" for name in missing] + wrong
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError(f"pretrained {path}: does not fit ResNet-34: {len(missing)} of {len(wanted)} parameters are "
                        f"missing, {len(wrong)} have another shape: {'; '.join(problems[:_SHOWN])}{more}. Expected an "
                        "ImageNet ResNet-34 of torchvision (.pth), MindSpore's model zoo or MindCV (.ckpt)")
    for name, parameter in wanted.items():
        parameter.set_data(Tensor(np.ascontiguousarray(found[name], np.float32)))
    logger.info("pretrained %s: %d parameters of the encoder", path, len(wanted))


def encoder_name(name: str) -> str | None:
    """Return what a parameter of another program's ResNet is called here; None for one that has no place here."""
    if match := _STEM.fullmatch(name):
        return _named("encoder.stem", match[1] == "bn", match[2])
    if match := _BLOCK.fullmatch(name):
        unit = "first" if match[4] == "1" else "second"
        return _named(f"encoder.layers.{int(match[1]) - 1}.{match[2]}.{unit}", match[3] == "bn", match[5])
    if match := _SHORTCUT.fullmatch(name):
        return _named(f"encoder.layers.{int(match[1]) - 1}.{match[2]}.shortcut", match[3] == "1", match[4])
    return None


def _named(unit: str, norm: bool, kind: str) -> str | None:
    if not norm:
        return f"{unit}.conv.{kind}"
    kind = _TORCH_NORM.get(kind, kind)
    return f"{unit}.norm.{kind}" if kind in _TORCH_NORM.values() else None


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"pretrained {path}: no such file; check recipe key 'pretrained'")
    if path.suffix in (".pth", ".pt"):
        return read_torch_file(path)
    if path.suffix != ".ckpt":
        raise UserError(f"pretrained {path}: found a file *{path.suffix}, expected MindSpore's .ckpt or torchvision's "
                        ".pth")
    try:
        parameters = ms.load_checkpoint(str(path))
    except Exception as error:  # ValueError, TypeError or protobuf's own, depending on the damage
        raise UserError(f"pretrained {path}: cannot be read as a MindSpore checkpoint (cut short, damaged, or another "
                        "kind of file); copy it again") from error
    # Beside the parameters there may be what `append_dict` put there: words and numbers.
    return {name: value.asnumpy() for name, value in parameters.items() if isinstance(value, ms.Parameter)}
