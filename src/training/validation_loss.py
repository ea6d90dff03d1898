"""The loss of validation cases, from the same pass through the network that predicts them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from src.backend import Backend
from src.collectives import gather_shares
from src.data.slices import SliceManager
from src.inference.compose import wrap_predictor
from src.inference.evaluate import NativeCase, ValidationSet
from src.inference.predictor import NetworkPredictor
from src.networks import ForegroundProbability


class LossPredictor:
    """Predicts blocks of pictures for a validation, and takes the loss of their logits on the way.

    A case's loss is that of all its slices as one batch, with the network in eval mode: a Dice over the batch is that
    of the patient's volume.

    Args:
        network: of pictures (N, C, H, W) -> logits (N, K, H, W).
        loss: of (logits, label (N, H, W)), a scalar.
        recipe: as `wrap_predictor` takes it.
        labels: (X, Y, Z) of the blocks, in the order in which these are predicted, again and again.
        backend: whose ranks have a part of the cases each.
    """

    path: Path | None = None  # as a predictor has it: the network comes from no file

    def __init__(self, network: nn.Cell, loss: nn.Cell, recipe: Mapping[str, Any], labels: Sequence[np.ndarray],
                 backend: Backend):
        self.loss = loss
        self.labels = labels
        self.backend = backend
        self.network = _LogitsKeeper(network)
        self.predictor = wrap_predictor(self.network, recipe)
        self.losses: list[float] = []

    def predict_block(self, image: np.ndarray) -> np.ndarray:
        """Return the probability (X, Y, Z) float32 of a block (C, X, Y, Z)."""
        self.network.logits.clear()
        probability = self.predictor.predict_block(image)
        label = self.labels[len(self.losses)]
        # The last batch may be filled up with copies.
        logits = np.concatenate(self.network.logits)[:label.shape[2]]
        loss = self.loss(Tensor(logits), Tensor(np.ascontiguousarray(label.transpose(2, 1, 0)), ms.float32))
        self.losses.append(loss.asnumpy().item())
        return probability

    def mean_loss(self) -> float:
        """Return the mean over the cases of all ranks, which were predicted since the last call; all ranks call it."""
        own, self.losses = self.losses, []
        return float(np.mean(gather_shares(self.backend, lambda: own)))


class _LogitsKeeper(NetworkPredictor):
    """A predictor of pictures that keeps the logits it saw: arrays (N, K, H, W), a batch each."""

    def __init__(self, network: nn.Cell):
        super().__init__(network)
        self.cell = network
        self.probability = ForegroundProbability(nn.Identity())
        self.logits: list[np.ndarray] = []

    def predict_batch(self, batch: np.ndarray) -> np.ndarray:
        self.logits.append(super().predict_batch(batch).astype(np.float32, copy=False))
        return self.probability(Tensor(self.logits[-1])).asnumpy().copy()


def validation_labels(validation: ValidationSet) -> list[np.ndarray]:
    """Return the labels (X, Y, Z) uint8 of this rank's cases as the network would see them, for `LossPredictor`.

    Args:
        validation: of pictures, in memory: nothing is read again. Outside of a case's region its label is 0.
    """
    manager, labels = validation.manager, []
    assert isinstance(manager, SliceManager)
    for case in validation.cases:
        assert isinstance(case, NativeCase) and case.label is not None
        labels.append(manager.block_label(case.label, case.block))
    return labels
