"""Segmentation losses on logits; everything is reduced in fp32."""

from collections.abc import Mapping
from typing import Any

from mindspore import Tensor, nn, ops

from src.ops.segmentation import ClassSums, SegmentationSums

_EPSILON = 1e-5  # keeps a class that is neither in the label nor in the prediction at a finite loss
_OVERLAP, _SQUARES, _LABELS, _PROBABILITIES, _ENTROPY, _FOCAL = range(6)  # columns of `ClassSums`

# The loss over regions and the one over voxels that a name stands for; their sum where it has both, but of `bce_dice`
# their mean with the weights that the recipe says.
LOSSES = {"dice": ("dice", "none"), "dice_ce": ("dice", "cross_entropy"), "dice_focal": ("dice", "focal"),
          "tversky": ("tversky", "none"), "iou": ("iou", "none"), "focal": ("none", "focal"),
          "bce": ("none", "cross_entropy"), "bce_dice": ("dice", "cross_entropy")}


class SegmentationLoss(nn.Cell):
    """A loss over regions, one over voxels, or the weighted sum of both, from one pass over volumes or pictures.

    With p the softmax probability of a class and g 1 at its voxels, the mean over the foreground classes (1 and up) of

    - Dice: 1 - 2 Σ p·g / (Σ p² + Σ g²), Milletari et al. 2016, eq. 3;
    - Tversky: 1 - Σ p·g / (Σ p·g + alpha Σ p·(1 - g) + beta Σ (1 - p)·g), Salehi et al. 2017, eq. 4; alpha = beta = 1/2
      is Dice with plain denominators, a larger beta makes missed voxels dearer than wrong ones;
    - IoU: 1 - Σ p·g / (Σ p + Σ g - Σ p·g), which is Tversky's with alpha = beta = 1 (Rahman and Wang 2016);

    and, over all classes, with p the probability of the voxel's own class, the mean over the voxels of

    - cross-entropy: -log p; of two classes it is the binary one;
    - focal: -(1 - p)^gamma log p, Lin et al. 2017, eq. 4.

    A ratio is taken over each sample, so that a small organ counts as much as a large one, or over the batch of this
    rank as one volume: then a class that only some of its blocks hold is learned in all of them, where a sample without
    the class has a ratio of 0 whatever is predicted, and no gradient.

    Input: logits (N, C, ...), or (N, 1, ...) of class 1 beside a background of 0; label (N, ...) of class numbers, 0 to
    C - 1, where ... are the axes of space: X, Y, Z of volumes, H, W of pictures. Output: scalar fp32, finite for finite
    logits of any size, also without foreground.

    Args:
        region: `dice`, `tversky`, `iou` or `none`.
        voxel: `cross_entropy`, `focal` or `none`.
        over: `sample` or `batch`.
        gamma, alpha, beta: as above.
        weights: of the loss over regions and of that over voxels.
    """

    def __init__(self, region: str, voxel: str, over: str = "sample", gamma: float = 2.0, alpha: float = 0.3,
                 beta: float = 0.7, weights: tuple[float, float] = (1.0, 1.0)):
        super().__init__()
        self.region, self.voxel = region, voxel
        self.over_batch = over == "batch"
        self.alpha, self.beta = (1.0, 1.0) if region == "iou" else (alpha, beta)
        self.region_weight, self.voxel_weight = weights
        # Two classes with Dice or cross-entropy need few sums, which have a faster pass.
        self.two_sums = SegmentationSums() if region in ("dice", "none") and voxel != "focal" else None
        self.sums = ClassSums(gamma if voxel == "focal" else -1.0)

    def construct(self, logits: Tensor, label: Tensor) -> Tensor:
        if self.two_sums is not None and logits.shape[1] <= 2:
            sums = self.two_sums(logits, label)  # (N, 4)
            return self._loss(2 * sums[:, 0:1], sums[:, 1:2] + sums[:, 2:3], sums[:, 3], label)
        sums = self.sums(logits, label)  # (N, C, 6)
        overlap, labels = sums[:, 1:, _OVERLAP], sums[:, 1:, _LABELS]
        voxels = sums[:, :, _FOCAL] if self.voxel == "focal" else sums[:, :, _ENTROPY]
        if self.region in ("tversky", "iou"):
            wrong, missed = sums[:, 1:, _PROBABILITIES] - overlap, labels - overlap
            return self._loss(overlap, overlap + self.alpha * wrong + self.beta * missed, voxels, label)
        return self._loss(2 * overlap, sums[:, 1:, _SQUARES] + labels, voxels, label)

    def _loss(self, parts: Tensor, wholes: Tensor, voxels: Tensor, label: Tensor) -> Tensor:
        """Return the loss from the ratios' (N, C - 1) parts and wholes and from sums over voxels."""
        loss = self.voxel_weight * (ops.reduce_sum(voxels) / label.size) if self.voxel != "none" else 0.0
        if self.region == "none":
            return loss
        if self.over_batch:
            parts, wholes = ops.reduce_sum(parts, 0), ops.reduce_sum(wholes, 0)
        return loss + self.region_weight * ops.reduce_mean(1 - parts / (wholes + _EPSILON))


class DeepSupervisionLoss(nn.Cell):
    """The weighted mean of a loss over the heads of a network: at its own resolution, at coarser ones, or both.

    A head of full size weighs 1, one that is coarser by `step` weighs 1 / step: 1, 1/2, 1/4, ... for each halving
    (Isensee et al. 2021, nnU-Net), and the same for heads that are all of full size (Zhou et al. 2018, UNet++). All is
    divided by the sum of the weights. A coarse voxel's label is that of the voxel next to its centre, above it. Taking
    every 2^k-th voxel instead would ask of a head that it shifts the structure by half of its own voxel; and a vote
    among the voxels that it covers would remove structures thinner than a coarse voxel from the label, where a choice
    at a fixed place keeps each class at its share of the volume.

    Input: logits (N, C, X, Y, Z) or (N, C, H, W) alone, or a tuple of them, the first at full size and each of the
    others there too or smaller by one whole number along all axes; label (N, X, Y, Z) or (N, H, W). Output: scalar
    fp32.

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
            step = label.shape[1] // logits[k].shape[2]
            total = total + self.loss(logits[k], _coarse(label, step)) / step
            weights += 1 / step
        return total / weights


def _coarse(label: Tensor, step: int) -> Tensor:
    """Return the label (N, ...) of voxels `step` times as long: that of the voxel next to their centre, above it."""
    if step == 1:
        return label
    half = step // 2
    if label.ndim == 3:
        return label[:, half::step, half::step]
    return label[:, half::step, half::step, half::step]


def build_loss(recipe: Mapping[str, Any]) -> nn.Cell:
    """Return the recipe's loss, see `SegmentationLoss` and `LOSSES`; with `deep_supervision` also of several heads.

    Args:
        recipe: `loss` counts, and where they are there `dice_over`, `focal_gamma`, `tversky_alpha`, `tversky_beta`,
            `bce_weight` and `deep_supervision`.

    Raises:
        ValueError: unknown loss.
    """
    name = recipe["loss"]
    if name not in LOSSES:
        raise ValueError(f"loss: found {name!r}, expected one of {', '.join(LOSSES)}")
    share = recipe.get("bce_weight", 0.5)
    loss = SegmentationLoss(*LOSSES[name], over=recipe.get("dice_over", "sample"),
                            gamma=recipe.get("focal_gamma", 2.0), alpha=recipe.get("tversky_alpha", 0.3),
                            beta=recipe.get("tversky_beta", 0.7),
                            weights=(1 - share, share) if name == "bce_dice" else (1.0, 1.0))
    return DeepSupervisionLoss(loss) if recipe.get("deep_supervision", False) else loss
