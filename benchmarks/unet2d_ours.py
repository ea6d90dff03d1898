"""Our U-Net, or the same of MindSpore's operators. Imported by a worker, in the project's environment."""

import ctypes
from contextlib import ExitStack
from typing import Any

import mindspore as ms
from cpu_vs_monai_ours import OurContender
from mindspore import Tensor
from unet2d_data import BASE, LEARNING_RATE, fixed_pictures

from src.backend import create_backend
from src.inference.predictor import NetworkPredictor
from src.losses import build_loss
from src.networks import build_network
from src.ops.select import kernels, stock_kernels
from src.overrides import load_recipe
from src.training.train_step import TrainStep


class OurUNet(OurContender):
    """One step of training or inference; the steps themselves are those of the V-Net's contender.

    Args:
        name: `unet2d-ours`, or `unet2d-stock` for MindSpore's operators.
        training: one optimisation step at a time, else one inference.
        size: of the pictures, (H, W).
        batch: pictures a step.
    """

    def __init__(self, name: str, training: bool, size: tuple[int, ...], batch: int):
        recipe = load_recipe("unet2d_lgg", overrides=[f"base_channels={BASE}", f"batch_size={batch}"])
        backend = create_backend("CPU", recipe=recipe)
        self.context = ExitStack()  # kept for the life of the process: a context that is collected would end
        if name.endswith("stock"):
            self.context.enter_context(stock_kernels())
        library = kernels()
        self.library = library and ctypes.CDLL(str(library.path))
        built = library is not None or name.endswith("stock")
        self.remark = "" if built else "no CPU kernels could be built: MindSpore's operators"
        network = build_network(recipe, backend.rank)
        self.parameters = sum(parameter.size for parameter in network.trainable_params())
        image, label = fixed_pictures(size, batch)
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
