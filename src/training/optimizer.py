"""The optimisers of the recipes; update.py says whose kernels compute their steps."""

from collections.abc import Mapping
from typing import Any

from mindspore import nn


def build_optimizer(recipe: Mapping[str, Any], network: nn.Cell) -> nn.Optimizer:
    """Return Adam, AdamW or SGD with momentum over the network's trainable parameters.

    The rate is a scalar parameter that the train step sets at each step. For `adam` and `sgd` the weight decay is
    added to the gradients (L2); for `adamw` the train step shrinks the weights itself (decoupled, Loshchilov and
    Hutter 2019), since MindSpore's AdamWeightDecay leaves out Adam's bias correction. Convolution weights decay;
    biases, batch norm and PReLU parameters do not.

    Raises:
        ValueError: unknown optimizer.
    """
    name = recipe["optimizer"]
    decay = 0.0 if name == "adamw" else recipe["weight_decay"]
    parameters = network.trainable_params()
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if decays(p)], "weight_decay": decay},
        {"params": [p for p in parameters if not decays(p)], "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]  # MindSpore refuses an empty group
    groups.append({"order_params": parameters})
    if name in ("adam", "adamw"):
        return nn.Adam(groups, learning_rate=recipe["lr"])
    if name == "sgd":
        return nn.Momentum(groups, learning_rate=recipe["lr"], momentum=recipe["momentum"])
    raise ValueError(f"optimizer: found {name!r}, expected adam, adamw or sgd")


def decays(parameter: Any) -> bool:
    """Return whether weight decay applies: to convolution weights, not to vectors."""
    return parameter.ndim > 1
