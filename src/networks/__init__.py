"""Networks: each maps a batch (N, C, X, Y, Z), or (N, C, H, W), to logits of that size and knows no device."""

from collections.abc import Callable, Mapping
from typing import Any

from mindspore import nn

from src.networks.attention_unet import AttentionUNet
from src.networks.probability import ForegroundProbability
from src.networks.resnet_unet import ResNet34UNet
from src.networks.unet2d import UNet2d
from src.networks.unet3d import UNet3d
from src.networks.unetpp import UNetPP
from src.networks.vnet import VNet
from src.ops.select import UnitOptions, set_unit_options
from src.recipe_rules import is_2d

PICTURE_CHANNELS = {"lgg": 3, "drive": 1, "em": 1}  # of a task's pictures


def build_network(recipe: Mapping[str, Any], rank: int = 0, world_size: int = 1) -> nn.Cell:
    """Return the recipe's network with weights drawn from MindSpore's global seed.

    Args:
        recipe: a checked recipe; `variant`, `activation`, `base_channels`, `dropout`, `out_kernel`, `classes`,
            `deep_supervision`, `norm`, `sync_bn`, `seed` count, and on the CPU kernels `amp_level` and
            `conv_algorithm`; of one for pictures `architecture`, `upsampling`, `base_channels`, `output_channels`,
            `dropout`, `deep_supervision`, `task`, `seed`.
        rank: makes the dropout masks of the ranks differ.
        world_size: number of ranks, over whose batches `sync_bn` takes the statistics together.

    Raises:
        UserError: `conv_algorithm` asks for kernels that are not there.
    """
    if recipe["task"] == "brain_tumour":
        return UNet3d()
    seed = recipe["seed"] + 7919 * rank
    if is_2d(recipe):
        return _build_2d(recipe, seed)
    set_unit_options(UnitOptions("bfloat16" if recipe["amp_level"] == "bf16" else "float32",
                                 recipe["conv_algorithm"], world_size if recipe["sync_bn"] else 1, recipe["norm"]))
    return VNet(variant=recipe["variant"], activation=recipe["activation"], base_channels=recipe["base_channels"],
                dropout=recipe["dropout"], out_kernel=recipe["out_kernel"], classes=recipe["classes"],
                seed=seed, deep_supervision=recipe["deep_supervision"])


def _build_2d(recipe: Mapping[str, Any], seed: int) -> nn.Cell:
    shape = (PICTURE_CHANNELS[recipe["task"]], recipe["output_channels"], recipe["base_channels"], recipe["upsampling"])
    builders: dict[str, Callable[[], nn.Cell]] = {
        "unet": lambda: UNet2d(*shape, dropout=recipe["dropout"], seed=seed),
        "attention_unet": lambda: AttentionUNet(*shape, dropout=recipe["dropout"], seed=seed),
        "resnet34_unet": lambda: ResNet34UNet(*shape),
        "unetpp": lambda: UNetPP(*shape, deep_supervision=recipe["deep_supervision"])}
    return builders[recipe["architecture"]]()


__all__ = ["PICTURE_CHANNELS", "AttentionUNet", "ForegroundProbability", "ResNet34UNet", "UNet2d", "UNet3d", "UNetPP",
           "VNet", "build_network"]
