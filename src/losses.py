"""Segmentation losses on logits; everything is reduced in fp32."""

from mindspore import Tensor, nn, ops

_EPSILON = 1e-5  # keeps a sample with empty label and empty prediction at a finite, small loss


class DiceLoss(nn.Cell):
    """Soft Dice loss with squared denominators, mean over the samples.

    For each sample 1 - 2 Σ p·g / (Σ p² + Σ g²), with p the softmax probability of class 1 and g the label:
    Milletari et al. 2016, eq. 3. Samples are not pooled: a small organ counts as much as a large one.

    Input: logits (N, 2, X, Y, Z), label (N, X, Y, Z) with 0 and 1. Output: scalar fp32.
    """

    def construct(self, logits: Tensor, label: Tensor) -> Tensor:
        return _dice_loss(_foreground_logit(logits), label.astype("float32"))


class DiceCrossEntropyLoss(nn.Cell):
    """`DiceLoss` plus the mean voxel cross-entropy, equally weighted (Isensee et al., nnU-Net, 2021).

    Input: logits (N, 2, X, Y, Z), label (N, X, Y, Z) with 0 and 1. Output: scalar fp32.
    """

    def construct(self, logits: Tensor, label: Tensor) -> Tensor:
        difference = _foreground_logit(logits)
        label = label.astype("float32")
        # Softplus form of -log softmax for two classes: no overflow for logits of any size.
        softplus = ops.relu(difference) + ops.log(1 + ops.exp(-ops.abs(difference)))
        return _dice_loss(difference, label) + ops.reduce_mean(softplus - label * difference)


def build_loss(name: str) -> nn.Cell:
    """Return the loss `dice` or `dice_ce`.

    Raises:
        ValueError: another name.
    """
    losses = {"dice": DiceLoss, "dice_ce": DiceCrossEntropyLoss}
    if name not in losses:
        raise ValueError(f"loss: found {name!r}, expected one of {', '.join(losses)}")
    return losses[name]()


def _foreground_logit(logits: Tensor) -> Tensor:
    """Return the logit of class 1 against class 0: its sigmoid is the two-class softmax."""
    logits = logits.astype("float32")
    return logits[:, 1] - logits[:, 0]


def _dice_loss(difference: Tensor, label: Tensor) -> Tensor:
    samples = label.shape[0]
    probability = ops.sigmoid(difference).reshape(samples, -1)
    label = label.reshape(samples, -1)
    overlap = ops.reduce_sum(probability * label, 1)
    size = ops.reduce_sum(probability * probability, 1) + ops.reduce_sum(label * label, 1)
    return ops.reduce_mean(1 - 2 * overlap / (size + _EPSILON))
