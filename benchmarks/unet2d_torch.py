"""The same U-Net on PyTorch, given the best of what it documents for CPU. Imported by a worker, in torch's environment.

Fused Adam, gradients set to None, in-place ReLU, all cores, denormals flushed, inference_mode.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from cpu_vs_monai_torch import MonaiContender
from torch import nn
from unet2d_data import BASE, CHANNELS, LEARNING_RATE, fixed_pictures


def double_conv(channels: int, out_channels: int) -> nn.Sequential:
    cells: list[nn.Module] = []
    for width in (channels, out_channels):
        cells += [nn.Conv2d(width, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels),
                  nn.ReLU(inplace=True)]
    return nn.Sequential(*cells)


class TorchNet(nn.Module):
    """src.networks.unet2d.UNet2d with transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        widths = [BASE * 2**level for level in range(5)]
        self.down = nn.ModuleList(double_conv(a, b) for a, b in zip([CHANNELS, *widths[:-1]], widths, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * width, width, 2, 2) for width in reversed(widths[:-1]))
        self.join = nn.ModuleList(double_conv(2 * width, width) for width in reversed(widths[:-1]))
        self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(BASE, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for block in self.down[:-1]:
            x = block(x)
            skips.append(x)
            x = self.pool(x)
        x = self.down[-1](x)
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


class TorchUNet(MonaiContender):
    """One step of training or inference; profiles as the V-Net's contender does.

    Args:
        traits: of the name; `cl` for channels_last.
        training, size, batch: as of `unet2d_ours.OurUNet`.
    """

    def __init__(self, traits: Sequence[str], training: bool, size: tuple[int, ...], batch: int):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        torch.set_flush_denormal(True)
        torch.manual_seed(1)
        layout = torch.channels_last if "cl" in traits else torch.contiguous_format
        self.remark = ""
        self.network: Any = TorchNet().to(memory_format=layout).train(training)
        image, label = fixed_pictures(size, batch)
        self.image = torch.from_numpy(image).to(memory_format=layout)
        self.label = torch.from_numpy(label)
        self.parameters = sum(p.numel() for p in self.network.parameters())
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE, fused=True)
        self.step = self.train if training else self.infer

    def train(self) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        probability = torch.sigmoid(self.network(self.image))[:, 0]
        overlap = (probability * self.label).sum()
        size = (probability * probability).sum() + (self.label * self.label).sum()
        loss = 1 - 2 * overlap / (size + 1e-5)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    @torch.inference_mode()
    def infer(self) -> float:
        return float(np.mean(torch.sigmoid(self.network(self.image)).numpy()))
