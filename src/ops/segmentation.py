"""The sums over voxels that segmentation losses are made of, in one pass where there is a kernel of ours.

In shapes, ... stands for the axes of space: X, Y, Z of volumes, H, W of pictures.
"""

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from src.ops import select

_TINY = 1e-7  # least 1 - p that a power is taken of


class SegmentationSums(nn.Cell):
    """For each sample Σ p·g, Σ p², Σ g² and the summed voxel cross-entropy, with p the probability of class 1.

    Input: logits (N, 2, ...), or (N, 1, ...) of class 1 beside a 0 for class 0; label g (N, ...) with 0 and 1. Output:
    (N, 4) fp32, summed in fp32 or finer. With d = logit 1 - logit 0, p = sigmoid(d), which is the two-class softmax,
    and the cross-entropy of a voxel is softplus(d) - g·d: finite for logits of any size.
    """

    def __init__(self) -> None:
        super().__init__()
        kernels = select.kernels()
        # Entries of the kernel library that work on plain volumes exist wherever the blocked kernels do.
        self.fused = _fused_sums(str(kernels.path)) if kernels is not None and kernels.has_blocked else None

    def construct(self, logits: Tensor, label: Tensor) -> Tensor:
        logits = logits.astype("float32")
        if self.fused is not None:
            return self.fused(logits, label)
        samples = label.shape[0]
        label = label.astype("float32").reshape(samples, -1)
        difference = (logits if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]).reshape(samples, -1)
        probability = ops.sigmoid(difference)
        softplus = ops.relu(difference) + ops.log(1 + ops.exp(-ops.abs(difference)))
        return ops.stack((ops.reduce_sum(probability * label, 1), ops.reduce_sum(probability * probability, 1),
                          ops.reduce_sum(label * label, 1), ops.reduce_sum(softplus - label * difference, 1)), axis=1)


class ClassSums(nn.Cell):
    """For each sample and class the sums over voxels that losses over any number of classes are made of.

    With p the softmax over the classes, g 1 at the voxels of a class and 0 elsewhere, and H = -log p of a voxel's own
    class: Σ p·g, Σ p², Σ g, Σ p, Σ g·H, and Σ g·(1 - p)^gamma·H, the focal loss (Lin et al. 2017, "Focal loss for dense
    object detection"); that one is 0 where `gamma` is below 0, which saves its computation. A voxel whose label is none
    of the classes belongs to none.

    Input: logits (N, C, ...), C from 2 to 16, or (N, 1, ...) of class 1 beside a 0 for class 0; label (N, ...) of class
    numbers. Output: (N, C, 6) fp32, with C = 2 for one logit, summed in fp32 or finer; finite for logits of any size.
    """

    def __init__(self, gamma: float = -1.0):
        super().__init__()
        self.gamma = gamma
        self.config = Tensor([gamma], ms.float32)
        kernels = select.kernels()
        self.fused = _fused_class_sums(str(kernels.path)) if kernels is not None and kernels.has_blocked else None

    def construct(self, logits: Tensor, label: Tensor) -> Tensor:
        logits = _two_logits(logits.astype("float32"))
        if self.fused is not None:
            return self.fused(self.config, logits, label)
        samples, classes = logits.shape[0], logits.shape[1]
        numbers = ops.arange(classes).astype("float32").reshape(1, classes, 1)
        own = (label.astype("float32").reshape(samples, 1, -1) == numbers).astype("float32")
        log_probability = ops.log_softmax(logits.reshape(samples, classes, -1), axis=1)
        probability = ops.exp(log_probability)
        entropy = -own * log_probability
        # Above 0: the slope of a power below 1 is infinite there.
        focal = entropy * (ops.pow(ops.clamp(1 - probability, _TINY), self.gamma) if self.gamma >= 0 else 0.0)
        terms = (probability * own, probability * probability, own, probability, entropy, focal)
        return ops.stack([ops.reduce_sum(term, 2) for term in terms], axis=2)


def _two_logits(logits: Tensor) -> Tensor:
    """Return logits (N, C, ...) as they are, a lone one (N, 1, ...) as the second of two, beside 0."""
    return ops.cat((ops.zeros_like(logits), logits), axis=1) if logits.shape[1] == 1 else logits


def _fused_class_sums(library: str) -> ops.Custom:
    def sums_shape(config: Any, logits: Any, label: Any) -> Any:
        return [logits[0], logits[1], 6]

    def gradient_shape(dsums: Any, config: Any, logits: Any, label: Any) -> Any:
        return logits

    def fp32(*_: Any) -> Any:
        return ms.float32

    gradient = ops.Custom(f"{library}:ClassSumsGrad", gradient_shape, fp32, "aot")

    def bprop(config: Any, logits: Any, label: Any, out: Any, dout: Any) -> Any:
        return ops.zeros_like(config), gradient(dout, config, logits, label), ops.zeros_like(label)

    return ops.Custom(f"{library}:ClassSums", sums_shape, fp32, "aot", bprop)


def _fused_sums(library: str) -> ops.Custom:
    def sums_shape(logits: Any, label: Any) -> Any:
        return [logits[0], 4]

    def gradient_shape(dsums: Any, logits: Any, label: Any) -> Any:
        return logits

    def fp32(*_: Any) -> Any:
        return ms.float32

    gradient = ops.Custom(f"{library}:SegmentationSumsGrad", gradient_shape, fp32, "aot")

    def bprop(logits: Any, label: Any, out: Any, dout: Any) -> Any:
        return gradient(dout, logits, label), ops.zeros_like(label)

    return ops.Custom(f"{library}:SegmentationSums", sums_shape, fp32, "aot", bprop)
