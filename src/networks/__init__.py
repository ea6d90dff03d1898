"""Networks: each maps a batch (N, C, X, Y, Z) to logits (N, classes, X, Y, Z) and knows no device."""

from collections.abc import Mapping
from typing import Any

from mindspore import nn

from src.networks.probability import ForegroundProbability
from src.networks.unet3d import UNet3d
from src.networks.vnet import VNet
from src.ops.select import UnitOptions, set_unit_options


def build_network(recipe: Mapping[str, Any], rank: int = 0, world_size: int = 1) -> nn.Cell:
    """Return the recipe's network with weights drawn from MindSpore's global seed.

    Args:
        recipe: a checked recipe; `variant`, `activation`, `base_channels`, `dropout`, `out_kernel`, `classes`,
            `deep_supervision`, `norm`, `sync_bn`, `seed` count, and on the CPU kernels `amp_level` and
            `conv_algorithm`.
        rank: makes the dropout masks of the ranks differ.
        world_size: number of ranks, over whose batches `sync_bn` takes the statistics together.

    Raises:
        UserError: `conv_algorithm` asks for kernels that are not there.
    """
    if recipe["task"] == "brain_tumour":
        return UNet3d()
    set_unit_options(UnitOptions("bfloat16" if recipe["amp_level"] == "bf16" else "float32",
                                 recipe["conv_algorithm"], world_size if recipe["sync_bn"] else 1, recipe["norm"]))
    return VNet(variant=recipe["variant"], activation=recipe["activation"], base_channels=recipe["base_channels"],
                dropout=recipe["dropout"], out_kernel=recipe["out_kernel"], classes=recipe["classes"],
                seed=recipe["seed"] + 7919 * rank, deep_supervision=recipe["deep_supervision"])


__all__ = ["ForegroundProbability", "UNet3d", "VNet", "build_network"]
