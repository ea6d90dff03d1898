"""Our V-Net, on the CPU kernels or on stock MindSpore's operators, built as train.py and predict.py build it.

Imported by a worker of cpu_vs_monai.py.
"""

import ctypes
import time
from contextlib import ExitStack
from typing import Any

import mindspore as ms
import numpy as np
from cpu_vs_monai_data import LEARNING_RATE, WEIGHT_DECAY, fixed_batch
from cpu_vs_monai_worker import Unsupported
from mindspore import Tensor

from src.backend import create_backend
from src.errors import UserError
from src.inference.predictor import NetworkPredictor
from src.losses import build_loss
from src.networks import build_network
from src.ops.select import kernels, stock_kernels
from src.overrides import load_recipe
from src.training.train_step import TrainStep

AMP_LEVELS = {"fp32": "O0", "bf16": "bf16"}
PROFILE_FIELDS = ("convolution", "pointwise", "optimizer", "other")  # src/ops/cpu/profile.h


class OurContender:
    """One step of training or inference.

    Args:
        name: `stock` (fp32 on MindSpore's operators) or `ours-PRECISION`.
        training: one optimisation step at a time, else one inference.
        size: of the volume, in voxels.
        batch: volumes a step.

    Raises:
        Unsupported: there is no such precision here.
    """

    def __init__(self, name: str, training: bool, size: tuple[int, ...], batch: int):
        stock = name == "stock"
        level = "O0" if stock else AMP_LEVELS[name.split("-")[1]]
        try:
            recipe = load_recipe(overrides=[f"VolSize={list(size)}", f"batch_size={batch}", f"amp_level={level}",
                                            f"lr={LEARNING_RATE}", f"weight_decay={WEIGHT_DECAY}", "optimizer=adam",
                                            "loss=dice"])
            backend = create_backend("CPU", recipe=recipe)
        except UserError as error:
            raise Unsupported(f"amp_level {level}: {error}") from error
        self.context = ExitStack()  # kept for the life of the process: a context that is collected would end
        if stock:
            self.context.enter_context(stock_kernels())
        library = kernels()
        self.library = library and ctypes.CDLL(str(library.path))
        self.remark = "" if stock or library else "no CPU kernels could be built: MindSpore's operators"
        network = build_network(recipe, backend.rank)
        self.parameters = sum(parameter.size for parameter in network.trainable_params())
        image, label = fixed_batch(size, batch)
        if training:
            self.cell = TrainStep(network, build_loss(recipe), recipe, backend)
            self.cell.set_train(True)
            # One bias that the update writes: reading it makes sure that the update has ended.
            self.updated = min(network.trainable_params(), key=lambda parameter: parameter.size)
            self.inputs: Any = Tensor(image), Tensor(label), Tensor(LEARNING_RATE, ms.float32)
            self.step = self.train
        else:
            network.set_train(False)
            self.predictor = NetworkPredictor(network)
            self.image = image
            self.step = self.infer

    def train(self) -> float:
        loss, applied, _, _ = (value.asnumpy().item() for value in self.cell(*self.inputs))
        self.updated.asnumpy()
        if not applied:
            raise ValueError("the gradients overflowed, so the step left out the update")
        return loss

    def infer(self) -> float:
        return float(np.mean(self.predictor.predict_batch(self.image)))

    def profile(self) -> dict[str, float] | None:
        """Return the seconds that the kernel library adds up by category over one step; None with stock operators."""
        if self.library is None:
            return None
        values = (ctypes.c_double * len(PROFILE_FIELDS))()
        self.library.VnetProfile(values)  # starts anew
        began = time.perf_counter()
        self.step()
        total = time.perf_counter() - began
        self.library.VnetProfile(values)
        return {**dict(zip(PROFILE_FIELDS, values, strict=True)), "total": total}
