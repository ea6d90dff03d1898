"""Segmentation losses on logits; everything is reduced in fp32."""

from collections.abc import Mapping
from typing import Any

from mindspore import Tensor, nn, ops

from src.ops.segmentation import ClassSums, SegmentationSums

_EPSILON = 1e-5  # keeps a class that is neither in the label nor in the prediction at a finite loss
_OVERLAP, _SQUARES, _LABELS, _PROBABILITIES, _ENTROPY, _FOCAL = range(6)  # columns of `ClassSums`

# The loss over regions and the one over voxels that a name stands for; their sum where it has both.
LOSSES = {"dice": ("dice", "none"), "dice_ce": ("dice", "cross_entropy"), "dice_focal": ("dice", "focal"),
          "tversky": ("tversky", "none"), "focal": ("none", "focal"), "bce": ("none", "cross_entropy")}


class SegmentationLoss(nn.Cell):
    """A loss over regions, one over voxels, or the sum of both, from one pass over the volume.

    With p the softmax probability of a class and g 1 at its voxels, the mean over the foreground classes (1 and up) of

    - Dice: 1 - 2 Σ p·g / (Σ p² + Σ g²), Milletari et al. 2016, eq. 3;
    - Tversky: 1 - Σ p·g / (Σ p·g + alpha Σ p·(1 - g) + beta Σ (1 - p)·g), Salehi et al. 2017, eq. 4; alpha = beta = 1/2
      is Dice with plain denominators, a larger beta makes missed voxels dearer than wrong ones;

    and, over all classes, with p the probability of the voxel's own class, the mean over the voxels of

    - cross-entropy: -log p;
    - focal: -(1 - p)^gamma log p, Lin et al. 2017, eq. 4.

    A ratio is taken over each sample, so that a small organ counts as much as a large one, or over the batch of this
    rank as one volume: then a class that only some of its blocks hold is learned in all of them, where a sample without
    the class has a ratio of 0 whatever is predicted, and no gradient.

    Input: logits (N, C, X, Y, Z), or (N, 1, X, Y, Z) of class 1 beside a background of 0; label (N, X, Y, Z) of class
    numbers, 0 to C - 1. Output: scalar fp32, finite for finite logits of any size.

    Args:
        region: `dice`, `tversky` or `none`.
        voxel: `cross_entropy`, `focal` or `none`.
        over: `sample` or `batch`.
        gamma, alpha, beta: as above.
    """

    def __init__(self, region: str, voxel: str, over: str = "sample", gamma: float = 2.0, alpha: float = 0.3,
                 beta: float = 0.7):
        super().__init__()
        self.region, self.voxel = region, voxel
        self.over_batch = over == "batch"
        self.alpha, self.beta = alpha, beta
        # Two classes with Dice or cross-entropy need few sums, which have a faster pass.
        self.two_sums = SegmentationSums() if region != "tversky" and voxel != "focal" else None
        self.sums = ClassSums(gamma if voxel == "focal" else -1.0)

    def construct(self, logits: Tensor, label: Tensor) -> Tensor:
        if logits.shape[1] == 1:
            logits = ops.cat((ops.zeros_like(logits), logits), axis=1)
        if self.two_sums is not None and logits.shape[1] == 2:
            sums = self.two_sums(logits, label)  # (N, 4)
            return self._loss(2 * sums[:, 0:1], sums[:, 1:2] + sums[:, 2:3], sums[:, 3], label)
        sums = self.sums(logits, label)  # (N, C, 6)
        overlap, labels = sums[:, 1:, _OVERLAP], sums[:, 1:, _LABELS]
        voxels = sums[:, :, _FOCAL] if self.voxel == "focal" else sums[:, :, _ENTROPY]
        if self.region == "tversky":
            wrong, missed = sums[:, 1:, _PROBABILITIES] - overlap, labels - overlap
            return self._loss(overlap, overlap + self.alpha * wrong + self.beta * missed, voxels, label)
        return self._loss(2 * overlap, sums[:, 1:, _SQUARES] + labels, voxels, label)

    def _loss(self, parts: Tensor, wholes: Tensor, voxels: Tensor, label: Tensor) -> Tensor:
        """Return the loss from the ratios' (N, C - 1) parts and wholes and from sums over voxels."""
        loss = ops.reduce_sum(voxels) / label.size if self.voxel != "none" else 0.0
        if self.region == "none":
            return loss
        if self.over_batch:
            parts, wholes = ops.reduce_sum(parts, 0), ops.reduce_sum(wholes, 0)
        return loss + ops.reduce_mean(1 - parts / (wholes + _EPSILON))


class DeepSupervisionLoss(nn.Cell):
    """The weighted mean of a loss at the network's own resolution and at coarser ones.

    Weights are 1, 1/2, 1/4, ... for each halving, divided by their sum (Isensee et al. 2021, nnU-Net). A coarse voxel's
    label is that of the voxel next to its centre, above it. Taking every 2^k-th voxel instead would ask of a head that
    it shifts the structure by half of its own voxel; and a vote among the voxels that it covers would remove structures
    thinner than a coarse voxel from the label, where a choice at a fixed place keeps each class at its share of the
    volume.

    Input: logits (N, C, X, Y, Z) alone, or a tuple of them and coarser ones, the k-th (N, C, X/2^k, Y/2^k, Z/2^k);
    label (N, X, Y, Z). Output: scalar fp32.

    Args:
        loss: of (logits, label), a scalar.
    """

    def __init__(self, loss: nn.Cell):
        super().__init__()
        self.loss = loss

    def construct(self, logits: Any, label: Tensor) -> Tensor:
        if not isinstance(logits, tuple):
            return self.loss(logits, label)
        total = self.loss(logits[0], label)
        weights = 1.0
        for k in range(1, len(logits)):
            step, half = 2**k, 2 ** (k - 1)
            coarse = label[:, half::step, half::step, half::step]
            total = total + self.loss(logits[k], coarse) / step
            weights += 1 / step
        return total / weights


def build_loss(recipe: Mapping[str, Any]) -> nn.Cell:
    """Return the recipe's loss, see `SegmentationLoss` and `LOSSES`; with `deep_supervision` also of coarser logits.

    Args:
        recipe: `loss` counts, and where they are there `dice_over`, `focal_gamma`, `tversky_alpha`, `tversky_beta` and
            `deep_supervision`.

    Raises:
        ValueError: unknown loss.
    """
    name = recipe["loss"]
    if name not in LOSSES:
        raise ValueError(f"loss: found {name!r}, expected one of {', '.join(LOSSES)}")
    loss = SegmentationLoss(*LOSSES[name], over=recipe.get("dice_over", "sample"),
                            gamma=recipe.get("focal_gamma", 2.0), alpha=recipe.get("tversky_alpha", 0.3),
                            beta=recipe.get("tversky_beta", 0.7))
    return DeepSupervisionLoss(loss) if recipe.get("deep_supervision", False) else loss
