"""The sums over voxels that segmentation losses are made of, in one pass where there is a kernel of ours."""

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from src.ops import select


class SegmentationSums(nn.Cell):
    """For each sample Σ p·g, Σ p², Σ g² and the summed voxel cross-entropy, with p the probability of class 1.

    Input: logits (N, 2, X, Y, Z), label g (N, X, Y, Z) with 0 and 1. Output: (N, 4) fp32, summed in fp32 or finer.
    With d = logit 1 - logit 0, p = sigmoid(d), which is the two-class softmax, and the cross-entropy of a voxel is
    softplus(d) - g·d: finite for logits of any size.
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
        difference = (logits[:, 1] - logits[:, 0]).reshape(samples, -1)
        probability = ops.sigmoid(difference)
        softplus = ops.relu(difference) + ops.log(1 + ops.exp(-ops.abs(difference)))
        return ops.stack((ops.reduce_sum(probability * label, 1), ops.reduce_sum(probability * probability, 1),
                          ops.reduce_sum(label * label, 1), ops.reduce_sum(softplus - label * difference, 1)), axis=1)


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
