"""What test_data_parallel.py runs on each rank: python rank_worker.py FOLDER; and one rank's part, to compare.

All of it in one job: starting ranks takes longer than most of what they do here.
"""

import pickle
import sys
import time
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, ops

import train as train_script
from src.backend import Backend, create_backend
from src.checkpoint import Checkpoint
from src.collectives import average, gather, gather_shares, share
from src.data.data_manager import Sample
from src.data.dataset import BatchLoader
from src.data.geometry import Geometry
from src.data.split import write_split
from src.errors import UserError
from src.inference.output import OutputFolders, evaluate_split
from src.losses import build_loss
from src.overrides import load_recipe
from src.training import build, reduce
from src.training.train_step import TrainStep
from tests.training.helpers import PointNetwork, SquareLoss, TwoUnits, small_network

SAMPLE = Path(__file__).parents[2] / "data" / "sample"
STEPS = 5
LATE_SECONDS = 6.0
SIZE = (16, 16, 16)
# Stochastic gradient descent, since Adam divides by the size of a gradient: a convolution's bias before batch norm has
# a gradient of zero but for rounding, which Adam would blow up to the size of the rate.
RUNS = {
    "paper": ["variant=paper", "optimizer=adam", "lr=0.001", "ema_decay=0.9"],
    "sync_bn": ["sync_bn=true", "optimizer=sgd", "momentum=0.9", "lr=0.01"],
    "own_bn": ["optimizer=sgd", "momentum=0.9", "lr=0.01"],
}


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
    network = small_network(recipe, backend.rank, backend.world_size)  # sets what units are made by, too
    if run == "own_bn":
        network = TwoUnits()
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
    step = TrainStep(PointNetwork(), SquareLoss(), recipe, replace(backend, loss_scaling="dynamic"))
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


def lateness(backend: Backend) -> dict[str, object]:
    """Let rank 1 be later than MindSpore would wait, by the MS_NODE_TIMEOUT of test_data_parallel.py."""
    found: dict[str, object] = {}
    for name, message in {"gather": lambda: gather(backend, backend.rank),
                          "all-reduce": lambda: ops.AllReduce(ops.ReduceOp.SUM)(Tensor([1.0])).asnumpy().tolist()
                          }.items():
        time.sleep(LATE_SECONDS * backend.rank)
        began = time.monotonic()
        found[name] = message()
        found[f"{name} took"] = time.monotonic() - began
    return found


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


def run_train_script(folder: Path, backend: Backend) -> None:
    """Two epochs of train.py, with batch norm, dropout and a validation each epoch."""
    train_script.create_backend = lambda *_: backend
    build.build_network = small_network
    settings = ["base_channels=2", "VolSize=[16,16,16]", "dstRes=[3,3,3]", "batch_size=2", "epochs=2", "val_every=1",
                "lr_scaling=linear", "warmup_step=2", "ema_decay=0.9"]
    code = train_script.main(["--run_distribute", "1", "--device_num", "2", "--data_path", str(SAMPLE),
                              "--train_split_file_path", str(folder / "train.csv"), "--run_dir", str(folder / "run"),
                              "--set", *settings])
    assert code == 0


def main(folder: Path) -> None:
    backend = create_backend("CPU", distribute=True, device_num=2, recipe=load_recipe())
    found: dict[str, object] = {"messages": messages(backend), "lateness": lateness(backend),
                                "overflow": overflow(backend)}
    evaluate(folder / "evaluation", backend)
    for run in RUNS:
        found[run] = train(run, 2, backend)
    run_train_script(folder, backend)
    reduce._share_memory = lambda *_: False
    found["overflow through sockets"] = overflow(backend)
    (folder / f"rank{backend.rank}.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
