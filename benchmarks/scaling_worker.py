"""One rank of a job of scaling.py: trains the default recipe's network step by step when told to.

    python scaling_worker.py FOLDER JOB SIZE BATCH WAY

Tasks are files FOLDER/JOB.NUMBER.task, in order, that hold {"steps": n}, {"means": n} or {"stop": true}; the answer of
each rank is FOLDER/JOB.NUMBER.RANK.json. WAY is `auto`, or `sockets` for MindSpore's own all-reduce.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import mindspore as ms
import numpy as np
from cpu_vs_monai_data import fixed_batch
from mindspore import Tensor

from src.backend import create_backend
from src.files import write_json
from src.losses import build_loss
from src.networks import build_network
from src.ops.select import kernels
from src.overrides import load_recipe
from src.training import reduce
from src.training.train_step import TrainStep

POLL_SECONDS = 0.01


class Rank:
    """The train step of one rank, as train.py builds it, on a fixed batch."""

    def __init__(self, size: tuple[int, ...], batch: int, way: str):
        ranks = int(os.environ.get("MS_WORKER_NUM", 1))
        recipe = load_recipe(overrides=[f"VolSize={list(size)}", f"batch_size={batch}"])
        self.backend = create_backend("CPU", distribute=ranks > 1, device_num=ranks, recipe=recipe)
        library = kernels()
        if library is None:
            raise SystemExit("the CPU kernels could not be built; see above")
        self.library = library
        if way == "sockets":
            reduce._share_memory = lambda *_: False
        network = build_network(recipe, self.backend.rank, ranks)
        self.step = TrainStep(network, build_loss(recipe), recipe, self.backend)
        self.step.set_train()
        # One bias that the update writes: reading it makes sure that the update has ended.
        self.updated = min(network.trainable_params(), key=lambda parameter: parameter.size)
        image, label = fixed_batch(size, batch)
        self.inputs = Tensor(image), Tensor(label.astype(np.float32)), Tensor(recipe.lr, ms.float32)
        self.gradients: tuple[Tensor, ...] = ()

    def about(self) -> dict[str, Any]:
        return {"threads": self.library.threads, "mean": type(self.step.mean_over_ranks).__name__,
                "isa": self.library.isa, "parameters": sum(p.size for p in self.step.parameters)}

    def steps(self, count: int) -> dict[str, Any]:
        """Return the seconds of each step, and of these the ones in the mean over ranks and waiting there."""
        seconds, in_mean, waiting = [], [], []
        for _ in range(count):
            self.library.rank_seconds()
            began = time.perf_counter()
            self.step(*self.inputs)[0].asnumpy()
            self.updated.asnumpy()
            seconds.append(time.perf_counter() - began)
            mean, waited = self.library.rank_seconds()
            in_mean.append(mean)
            waiting.append(waited)
        return {"seconds": seconds, "in_mean": in_mean, "waiting": waiting}

    def means(self, count: int) -> dict[str, Any]:
        """Return the seconds of the mean over ranks alone, on gradients of zeros."""
        if not self.gradients:
            self.gradients = tuple(Tensor(np.zeros(p.shape, np.float32)) for p in self.step.parameters)
        seconds = []
        for _ in range(count):
            began = time.perf_counter()
            self.step.mean_over_ranks(self.gradients, Tensor(0.0, ms.float32))[1].asnumpy()
            seconds.append(time.perf_counter() - began)
        return {"seconds": seconds}


def main() -> None:
    folder, job, size, batch, way = Path(sys.argv[1]), *sys.argv[2:]
    rank = Rank(tuple(map(int, size.split("x"))), int(batch), way)
    number = 0
    while True:
        task_file = folder / f"{job}.{number}.task"
        while not task_file.exists():
            time.sleep(POLL_SECONDS)
        task = json.loads(task_file.read_text())
        if "stop" in task:
            return
        answer = rank.steps(task["steps"]) if "steps" in task else rank.means(task["means"])
        write_json(folder / f"{job}.{number}.{rank.backend.rank}.json", {**answer, **rank.about()})
        number += 1


if __name__ == "__main__":
    main()
