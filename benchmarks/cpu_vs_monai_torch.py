"""MONAI's V-Net on PyTorch, given the best of what PyTorch documents for CPU.

Imported by a worker of cpu_vs_monai.py, in MONAI's environment. Fused Adam, gradients set to None, in-place ELU, all
cores, denormals flushed, inference_mode, huge pages (an environment variable, see cpu_vs_monai.py). The loss is the
formula of src/losses.py written out, which is cheaper than monai.losses.DiceLoss; the weight decay, as in the recipe,
is on convolution weights only.
"""

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from cpu_vs_monai_data import LEARNING_RATE, WEIGHT_DECAY, fixed_batch
from monai.networks.nets import VNet

CONVOLUTION = ("convolution", "mkldnn_reorder", "to_mkldnn")
# Batch norm, ELU, dropout, and the sums, copies and conversions between convolutions.
POINTWISE = ("batch_norm", "elu", "dropout", "bernoulli", "aten::add", "aten::mul", "aten::div", "aten::cat",
             "aten::repeat", "aten::copy_", "aten::fill_", "aten::sum", "aten::clone", "aten::zero_", "aten::narrow")


class MonaiContender:
    """One precision and layout of it.

    Args:
        traits: `fp32` or `bf16` (autocast), then any of `cl` (channels_last_3d) and `compile` (torch.compile).
        training: one optimisation step at a time, else one inference.
        size: of the volume, in voxels.
        batch: volumes a step.
    """

    def __init__(self, traits: Sequence[str], training: bool, size: tuple[int, ...], batch: int):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.set_flush_denormal(True)
        torch.manual_seed(1)
        self.bf16 = traits[0] == "bf16"
        self.remark = ""
        layout = torch.channels_last_3d if "cl" in traits else torch.contiguous_format
        network = VNet(spatial_dims=3, in_channels=1, out_channels=2, act=("elu", {"inplace": True}))
        network = network.to(memory_format=layout).train(training)
        image, label = fixed_batch(size, batch)
        self.image = torch.from_numpy(image).to(memory_format=layout)
        self.label = torch.from_numpy(label)
        self.parameters = sum(p.numel() for p in network.parameters())
        if training:
            weights = [p for p in network.parameters() if p.ndim > 1]
            vectors = [p for p in network.parameters() if p.ndim <= 1]
            self.optimizer = torch.optim.Adam([{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": vectors}],
                                              lr=LEARNING_RATE, fused=True)
        self.network: Any = torch.compile(network) if "compile" in traits else network
        self.step = self.train if training else self.infer

    def train(self) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            logits = self.network(self.image)
        loss = dice_loss(logits, self.label)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    @torch.inference_mode()
    def infer(self) -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            logits = self.network(self.image)
        probability = torch.softmax(logits.float(), dim=1)[:, 1].numpy()
        return float(np.mean(probability))

    def profile(self) -> dict[str, float]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            began = time.perf_counter()
            self.step()
            total = time.perf_counter() - began
        seconds = {"convolution": 0.0, "pointwise": 0.0, "optimizer": 0.0, "total": total}
        for event in profiler.events():
            category = category_of(event)
            if category:
                seconds[category] += event.self_cpu_time_total / 1e6
        return seconds


def category_of(event: Any) -> str | None:
    """Return where an operator's own time belongs: the optimiser has all that its step calls; None: the rest."""
    ancestor = event
    while ancestor is not None:
        if ancestor.name.startswith("Optimizer.step"):
            return "optimizer"
        ancestor = ancestor.cpu_parent
    if any(word in event.name for word in CONVOLUTION):
        return "convolution"
    return "pointwise" if any(word in event.name for word in POINTWISE) else None


def dice_loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The Dice of `src.losses.SegmentationLoss`: logits (N, 2, X, Y, Z), label (N, X, Y, Z), scalar fp32."""
    logits = logits.float()
    probability = torch.sigmoid(logits[:, 1] - logits[:, 0]).flatten(1)
    label = label.float().flatten(1)
    overlap = (probability * label).sum(1)
    size = (probability * probability).sum(1) + (label * label).sum(1)
    return (1 - 2 * overlap / (size + 1e-5)).mean()
