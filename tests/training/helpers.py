"""Small stand-ins that the training tests share."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from src.data.dataset import Batch
from src.networks.vnet import DownTransition, OutputTransition, UpTransition
from src.ops import ConvUnit
from src.ops.select import UnitOptions, set_unit_options


class PointNetwork(nn.Cell):
    """Logits (N, 2, X, Y, Z) = (0, weight * x + bias) from an image (N, 1, X, Y, Z): two parameters, small graphs."""

    def __init__(self, weight: float = 0.5, bias: float = 0.0):
        super().__init__()
        # (1, 1): a matrix, so that weight decay applies to it and not to the bias
        self.weight = Parameter(Tensor(np.full((1, 1), weight, np.float32)), name="weight")
        self.bias = Parameter(Tensor(np.full((1,), bias, np.float32)), name="bias")

    def construct(self, x: Tensor) -> Tensor:
        logit = x * self.weight.reshape(1, 1, 1, 1, 1) + self.bias.reshape(1, 1, 1, 1, 1)
        return ops.cat((ops.zeros_like(logit), logit), axis=1)


class PictureNetwork(nn.Cell):
    """A logit (N, 1, H, W) = weight * (the channels' sum) from pictures (N, C, H, W), with three heads in training."""

    def __init__(self, weight: float = 0.5):
        super().__init__()
        self.weight = Parameter(Tensor(np.full((1, 1), weight, np.float32)), name="weight")

    def construct(self, x: Tensor) -> Any:
        logit = x.sum(axis=1, keepdims=True) * self.weight.reshape(1, 1, 1, 1)
        return (logit, 2 * logit, 3 * logit) if self.training else logit


class SquareLoss(nn.Cell):
    """Mean of (logit - label)² / 2: its gradient by hand is mean((logit - label) * x)."""

    def construct(self, logits: Tensor, label: Tensor) -> Tensor:
        difference = logits[:, 1] - label
        return (difference * difference).mean() / 2


class FakeStep:
    """Stands in for the train step: gives the losses it was told to, and records the rates."""

    def __init__(self, losses, applied=True):
        self.losses = list(losses)
        self.applied = applied
        self.rates: list[float] = []

    def set_train(self, mode):
        assert mode is True

    def __call__(self, image, label, rate):
        self.rates.append(rate.asnumpy().item())
        loss = self.losses[(len(self.rates) - 1) % len(self.losses)]
        outputs = (np.float32(loss), self.applied, np.float32(2), np.float32(1))
        return tuple(Tensor(np.array(value)) for value in outputs)


class FakeLoader:
    """Two batches an epoch."""

    steps_per_epoch = 2
    world_size = 1

    def epoch(self, epoch):
        for step in range(2):
            zeros = np.zeros((1, 1, 1, 1, 1), np.float32)
            yield Batch(zeros, zeros[:, 0], (f"Case{epoch}{step}",))


class TwoUnits(nn.Cell):
    """Batch norm on the CPU kernels."""

    def __init__(self):
        super().__init__()
        self.first = ConvUnit(1, 16, 5, act="elu", residual="image")
        self.last = ConvUnit(16, 2, 5, norm=False)

    def construct(self, x):
        return self.last(self.first(x))


class OneStage(nn.Cell):
    """A V-Net that goes down and up once; with the settings of a recipe."""

    def __init__(self, recipe: Mapping[str, Any], seed: int):
        super().__init__()
        paper = recipe["variant"] == "paper"
        act, norm, dropout = "prelu" if paper else "elu", not paper, recipe["dropout"]
        self.input = ConvUnit(1, 4, 5, residual="image", residual_act=act, norm=norm)
        self.down = DownTransition(4, 2, dropout, act, norm, seed)
        self.up = UpTransition(8, 4, 8, 1, dropout, dropout, act, norm, seed + 2)
        self.output = OutputTransition(8, 2, 1, act, norm, True)

    def construct(self, x: Tensor) -> Tensor:
        x = self.input(x)
        return self.output(self.up(self.down(x), x))


def small_network(recipe: Mapping[str, Any], rank: int = 0, world_size: int = 1) -> nn.Cell:
    """In place of `build_network`: the whole V-Net takes four times as long to compile."""
    set_unit_options(UnitOptions("float32", recipe["conv_algorithm"], world_size if recipe["sync_bn"] else 1,
                                 recipe["norm"]))
    return OneStage(recipe, recipe["seed"] + 7919 * rank)
