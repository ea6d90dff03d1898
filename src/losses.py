"""Segmentation losses on logits; everything is reduced in fp32."""

from mindspore import Tensor, nn, ops

from src.ops.segmentation import SegmentationSums

_EPSILON = 1e-5  # keeps a sample with empty label and empty prediction at a finite, small loss


class DiceLoss(nn.Cell):
    """Soft Dice loss with squared denominators, mean over the samples.

    For each sample 1 - 2 Σ p·g / (Σ p² + Σ g²), with p the softmax probability of class 1 and g the label:
    Milletari et al. 2016, eq. 3. Samples are not pooled: a small organ counts as much as a large one.

    Input: logits (N, 2, X, Y, Z), or (N, 1, X, Y, Z) of class 1 alone, label (N, X, Y, Z) with 0 and 1. Output: scalar
    fp32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sums = SegmentationSums()

    def construct(self, logits: Tensor, label: Tensor) -> Tensor:
        return _dice_loss(self.sums(_two_classes(logits), label))


class BinaryCrossEntropyLoss(nn.Cell):
    """Mean voxel cross-entropy of class 1 against class 0, from logits: finite for logits of any size.

    Input: logits (N, 1, X, Y, Z) of class 1, or (N, 2, X, Y, Z), of which the difference counts; label (N, X, Y, Z)
    with 0 and 1. Output: scalar fp32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sums = SegmentationSums()

    def construct(self, logits: Tensor, label: Tensor) -> Tensor:
        return ops.reduce_sum(self.sums(_two_classes(logits), label)[:, 3]) / label.size


class DiceCrossEntropyLoss(nn.Cell):
    """`DiceLoss` plus the mean voxel cross-entropy, equally weighted (Isensee et al., nnU-Net, 2021).

    Input and output as `DiceLoss`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sums = SegmentationSums()

    def construct(self, logits: Tensor, label: Tensor) -> Tensor:
        sums = self.sums(_two_classes(logits), label)
        return _dice_loss(sums) + ops.reduce_sum(sums[:, 3]) / label.size


def build_loss(name: str) -> nn.Cell:
    """Return the loss `dice`, `dice_ce` or `bce`.

    Raises:
        ValueError: another name.
    """
    losses = {"dice": DiceLoss, "dice_ce": DiceCrossEntropyLoss, "bce": BinaryCrossEntropyLoss}
    if name not in losses:
        raise ValueError(f"loss: found {name!r}, expected one of {', '.join(losses)}")
    return losses[name]()


def _dice_loss(sums: Tensor) -> Tensor:
    """Return the Dice loss from `SegmentationSums`."""
    return ops.reduce_mean(1 - 2 * sums[:, 0] / (sums[:, 1] + sums[:, 2] + _EPSILON))


def _two_classes(logits: Tensor) -> Tensor:
    """Return logits (N, 2, ...): a lone logit is that of class 1, beside 0 for class 0."""
    if logits.shape[1] == 1:
        return ops.cat((ops.zeros_like(logits), logits), axis=1)
    return logits
