"""Segmentation losses on logits; everything is reduced in fp32."""

from mindspore import Tensor, nn, ops

from src.ops.segmentation import SegmentationSums

_EPSILON = 1e-5  # keeps a sample with empty label and empty prediction at a finite, small loss


class DiceLoss(nn.Cell):
    """Soft Dice loss with squared denominators, mean over the samples.

    For each sample 1 - 2 Σ p·g / (Σ p² + Σ g²), with p the softmax probability of class 1 and g the label:
    Milletari et al. 2016, eq. 3. Samples are not pooled: a small organ counts as much as a large one.

    Input: logits (N, 2, X, Y, Z), label (N, X, Y, Z) with 0 and 1. Output: scalar fp32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sums = SegmentationSums()

    def construct(self, logits: Tensor, label: Tensor) -> Tensor:
        return _dice_loss(self.sums(logits, label))


class DiceCrossEntropyLoss(nn.Cell):
    """`DiceLoss` plus the mean voxel cross-entropy, equally weighted (Isensee et al., nnU-Net, 2021).

    Input: logits (N, 2, X, Y, Z), label (N, X, Y, Z) with 0 and 1. Output: scalar fp32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sums = SegmentationSums()

    def construct(self, logits: Tensor, label: Tensor) -> Tensor:
        sums = self.sums(logits, label)
        return _dice_loss(sums) + ops.reduce_sum(sums[:, 3]) / label.size


def build_loss(name: str) -> nn.Cell:
    """Return the loss `dice` or `dice_ce`.

    Raises:
        ValueError: another name.
    """
    losses = {"dice": DiceLoss, "dice_ce": DiceCrossEntropyLoss}
    if name not in losses:
        raise ValueError(f"loss: found {name!r}, expected one of {', '.join(losses)}")
    return losses[name]()


def _dice_loss(sums: Tensor) -> Tensor:
    """Return the Dice loss from `SegmentationSums`."""
    return ops.reduce_mean(1 - 2 * sums[:, 0] / (sums[:, 1] + sums[:, 2] + _EPSILON))
