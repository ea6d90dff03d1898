"""What test_pipeline.py runs as two connected processes: python pipeline_worker.py FOLDER RANK DESCRIPTOR."""

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from src.backend import create_backend
from src.losses import build_loss
from src.networks import build_network
from src.networks.unet3d import Block, run_blocks
from src.overrides import load_recipe
from src.training.pipeline import MicroBatchStep
from src.training.pipeline_channel import LocalChannel
from tests.training.ranks import ROOT

SIZE = (24, 24, 11)  # 12 voxels at the bottom; of very few, the variance of batch norm magnifies rounding
STEPS = 3
SPLITS = (1, 7)  # of two blocks, with one tensor between them, and of the 3-D U-Net, with three
# Stochastic gradient descent: Adam divides by the size of a gradient, which blows up rounding where that is near zero.
RECIPE = load_recipe("unet3d_brain", overrides=["micro_batches=4", "optimizer=sgd", "momentum=0.9", "grad_clip=1"])


class TwoBlocks(nn.Cell):
    """The smallest network that can be cut; for what has nothing to do with the 3-D U-Net's layers."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.CellList([Block(nn.Conv3d(4, 3, 3, has_bias=True), norm_in=4, norm_out=3),
                                  Block(nn.Conv3d(3, 1, 1, has_bias=True), norm_in=3, act=False)])

    def construct(self, x: Tensor) -> Tensor:
        return run_blocks(self.parts, (x,), True)[0]

    def blocks(self) -> list[nn.Cell]:
        return list(self.parts)


def batch(volumes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return images (volumes, 4, X, Y, Z) and labels that show in them."""
    rng = np.random.default_rng(seed)
    label = np.zeros((volumes, *SIZE), np.float32)
    for number in range(volumes):
        x, y, z = rng.integers(1, 8, 2).tolist() + [2]
        label[number, x:x + 6, y:y + 6, z:z + 3] = 1
    image = rng.random((volumes, 4, *SIZE), dtype=np.float32) * 0.4 + 0.6 * label[:, np.newaxis]
    return image.astype(np.float32), label


def train(channel: Any, rank: int, split: int, whole: bool) -> dict[str, np.ndarray]:
    """Take `STEPS` steps of the 3-D U-Net or of two blocks; return losses, norms and the network's parameters."""
    ms.set_seed(RECIPE.seed)
    network = build_network(RECIPE) if whole else TwoBlocks()
    step = MicroBatchStep(network, build_loss(RECIPE), RECIPE, rank, split, channel)
    step.set_train(True)
    losses, norms = [], []
    for number in range(STEPS):
        image, label = batch(4, number)
        loss, applied, norm, _ = (v.asnumpy().item() for v in step(Tensor(image), Tensor(label),
                                                                  Tensor(0.05, ms.float32)))
        assert applied
        losses.append(loss)
        norms.append(norm)
    step.exchange()
    found = {p.name: p.asnumpy() for p in network.get_parameters()}
    return {"losses": np.array(losses), "norms": np.array(norms), **found}


def start_both(folder: Path) -> None:
    """Run two connected ranks of one thread each, and wait for them."""
    ends = socket.socketpair()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOG_v": "3"}
    processes = [subprocess.Popen([sys.executable, __file__, str(folder), str(rank), str(end.fileno())], cwd=ROOT,
                                  env=environment, pass_fds=(end.fileno(),))
                 for rank, end in enumerate(ends)]
    for end in ends:
        end.close()
    try:
        assert [process.wait(timeout=240) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


def main(folder: Path, rank: int, descriptor: int) -> None:
    create_backend("CPU", recipe=RECIPE)
    channel = LocalChannel(socket.socket(fileno=descriptor))
    found = {split: train(channel, rank, split, split == SPLITS[1]) for split in SPLITS}
    channel.close()
    (folder / f"rank{rank}.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
