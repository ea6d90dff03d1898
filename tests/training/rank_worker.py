"""What test_data_parallel.py runs on each rank: python rank_worker.py FOLDER; also training on one rank, to compare."""

import pickle
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from src.backend import Backend, create_backend
from src.checkpoint import Checkpoint
from src.collectives import average, gather, gather_shares, share
from src.config import load_recipe
from src.data.data_manager import Sample
from src.data.dataset import BatchLoader
from src.data.geometry import Geometry
from src.data.split import write_split
from src.errors import UserError
from src.inference.output import OutputFolders, evaluate_split
from src.losses import build_loss
from src.networks import build_network
from src.networks.vnet import DownTransition, OutputTransition, UpTransition
from src.ops import ConvUnit
from src.training import reduce
from src.training.train_step import TrainStep
from tests.training.helpers import PointNetwork, SquareLoss

SAMPLE = Path(__file__).parents[2] / "data" / "sample"
STEPS = 5
SIZE = (16, 16, 16)
# Stochastic gradient descent, since Adam divides by the size of a gradient: a convolution's bias before batch norm has
# a gradient of zero but for rounding, which Adam would blow up to the size of the rate.
RUNS = {
    "paper": ["variant=paper", "optimizer=adam", "lr=0.001", "ema_decay=0.9"],
    "sync_bn": ["sync_bn=true", "optimizer=sgd", "momentum=0.9", "lr=0.01"],
    "own_bn": ["optimizer=sgd", "momentum=0.9", "lr=0.01"],
}


class TwoUnits(nn.Cell):
    """Batch norm on the CPU kernels."""

    def __init__(self):
        super().__init__()
        self.first = ConvUnit(1, 16, 5, act="elu", residual="image")
        self.last = ConvUnit(16, 2, 5, norm=False)

    def construct(self, x):
        return self.last(self.first(x))


class OneStage(nn.Cell):
    """A V-Net that goes down and up once: the whole one takes four times as long to compile with `sync_bn`."""

    def __init__(self):
        super().__init__()
        self.input = ConvUnit(1, 4, 5, residual="image", residual_act="elu")
        self.down = DownTransition(4, 2, 0.0, "elu", True, seed=1)
        self.up = UpTransition(8, 4, 8, 1, 0.0, 0.0, "elu", True, seed=1)
        self.output = OutputTransition(8, 2, 1, "elu", True, True)

    def construct(self, x):
        x = self.input(x)
        return self.output(self.up(self.down(x), x))


def samples() -> list[Sample]:
    """Twelve blocks of noise, brighter within a box whose place differs."""
    rng = np.random.default_rng(5)
    made = []
    for number in range(12):
        image, label = rng.normal(size=SIZE).astype(np.float32), np.zeros(SIZE, np.uint8)
        x, y, z = rng.integers(2, 9, 3)
        label[x:x + 5, y:y + 6, z:z + 4] = 1
        grid = Geometry(SIZE, (1.0, 1.0, 1.0))
        made.append(Sample(case_id=f"Case{number:02d}", image=image + 2 * label, label=label, block=grid, native=grid,
                           cropped_foreground=0.0, foreground_ml=1.0))
    return made


def train(run: str, batch_size: int, backend: Backend) -> dict[str, np.ndarray]:
    """Take `STEPS` steps without dropout; return losses, and by name the network's parameters and their averages."""
    recipe = load_recipe(overrides=["base_channels=2", f"VolSize={list(SIZE)}", f"batch_size={batch_size}", "dropout=0",
                                    *RUNS[run]])
    ms.set_seed(recipe.seed)
    network = build_network(recipe, backend.rank, backend.world_size)  # sets what units are made by
    network = {"sync_bn": OneStage, "own_bn": TwoUnits}.get(run, lambda: network)()
    step = TrainStep(network, build_loss(recipe), recipe, backend)
    step.set_train()
    loader = BatchLoader(samples(), batch_size, recipe.seed, backend.rank, backend.world_size)
    batches = [batch for epoch in range(1, 3) for batch in loader.epoch(epoch)][:STEPS]
    losses = [step(Tensor(batch.image), Tensor(batch.label), Tensor(recipe.lr, ms.float32))[0].asnumpy().item()
              for batch in batches]
    return {"losses": np.array(losses),
            **{p.name: p.asnumpy() for cell in (network, step.average) if cell for p in cell.get_parameters()}}


def overflow(backend: Backend) -> dict[str, object]:
    """Take three steps; in the second one the gradients of rank 1 alone overflow."""
    recipe = load_recipe(overrides=["weight_decay=0", "optimizer=sgd", "loss_scale=1024"])
    step = TrainStep(PointNetwork(), SquareLoss(), recipe, Backend("CPU", 0, backend.rank, backend.world_size,
                                                                   loss_scaling="dynamic"))
    step.set_train()
    seen = []
    for number in range(3):
        x = np.array([1.0, 2.0 + backend.rank], np.float32).reshape(1, 1, 2, 1, 1)
        if number == 1 and backend.rank == 1:
            x = x * np.float32(1e18)
        label = np.zeros((1, 2, 1, 1), np.float32)
        loss, applied, norm, scale = (v.asnumpy().item() for v in step(Tensor(x), Tensor(label),
                                                                      Tensor(0.1, ms.float32)))
        seen.append((loss, applied, norm, scale, step.network.weight.asnumpy().item()))
    return {"seen": seen, "mean": type(step.mean_over_ranks).__name__}


def messages(backend: Backend) -> dict[str, object]:
    """Try what ranks tell each other."""
    own = {"rank": backend.rank, "value": 0.1 + backend.rank, "bytes": bytes(range(256)) * (1 + 40 * backend.rank)}
    items = list("abcde")
    parameter = Parameter(Tensor(np.array([[1.0, 2.0 + 4 * backend.rank]], np.float32)), name="p")
    average(backend, [parameter])

    def fail_on_rank_1() -> list[str]:
        if backend.rank == 1:
            raise UserError("Case01: cannot be read")
        return share(backend, items)

    try:
        problem = str(gather_shares(backend, fail_on_rank_1))
    except UserError as error:
        problem = f"UserError: {error}"
    return {"gathered": gather(backend, own), "problem": problem, "average": parameter.asnumpy().tolist(),
            "own": share(backend, items),
            "all": gather_shares(backend, lambda: [item.upper() for item in share(backend, items)])}


class Bright:
    """Foreground where a block is brighter than most of it: a predictor without a network."""

    path = None

    def predict_block(self, image: np.ndarray) -> np.ndarray:
        return (image > 1).astype(np.float32)


def evaluate(folder: Path, backend: Backend) -> None:
    """Evaluate three cases of the sample data, in the order of the split."""
    write_split(split := folder / f"split{backend.rank}.csv", ["Case26.mhd", "Case24.mhd", "Case25.mhd"])
    recipe = load_recipe(overrides=["VolSize=[48,48,48]", "dstRes=[1,1,1]"])
    evaluate_split(Bright(), recipe, Checkpoint(Path("x.ckpt"), {}), SAMPLE, split,
                   OutputFolders(folder, folder / "masks"), backend=backend)


def main(folder: Path) -> None:
    backend = create_backend("CPU", distribute=True, device_num=2, recipe=load_recipe())
    found: dict[str, object] = {"messages": messages(backend), "overflow": overflow(backend)}
    evaluate(folder / "evaluation", backend)
    for run in RUNS:
        found[run] = train(run, 2, backend)
    reduce._share_memory = lambda *_: False
    found["overflow through sockets"] = overflow(backend)
    (folder / f"rank{backend.rank}.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
