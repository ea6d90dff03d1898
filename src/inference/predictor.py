"""Networks behind one call: a preprocessed block in, its probability out."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import mindspore as ms
import numpy as np
from easydict import EasyDict
from mindspore import Tensor, nn
from mindspore.train.mind_ir_pb2 import ModelProto

from src.checkpoint import Checkpoint, load_checkpoint, load_parameters
from src.config import RECIPES
from src.errors import UserError
from src.networks import ForegroundProbability, build_network
from src.overrides import apply_overrides

logger = logging.getLogger(__name__)


class Predictor(Protocol):
    """Whatever turns a block into probabilities."""

    @property
    def path(self) -> Path | None:
        """The file that the network came from; None where it was not read from one, as during training."""
        ...

    def predict_block(self, image: np.ndarray) -> np.ndarray:
        """Return the probability of a preprocessed block, float32 both.

        Of two classes the foreground's, (X, Y, Z); of C > 2 that of every class, (C, X, Y, Z). The block is (X, Y, Z),
        or (channels, X, Y, Z) for a network of several channels.
        """
        ...


class NetworkPredictor:
    """A network in this process, for validation during training as well.

    Keep one for as long as the network is used: each compiles its graph at its first call, and never again for
    blocks of one size.

    Args:
        network: (N, channels, X, Y, Z) -> logits (N, C, X, Y, Z), or (N, 1, X, Y, Z) of the foreground alone; or the
            same of pictures (N, channels, H, W), which know `predict_batch` only, see `slices.SlicePredictor`.
        path: the checkpoint that it was read from, if any.
    """

    def __init__(self, network: nn.Cell, path: Path | None = None):
        self.network = network
        self.path = path
        self.cell = ForegroundProbability(network)

    def predict_batch(self, batch: np.ndarray) -> np.ndarray:
        """Return the probability, see `ForegroundProbability`, of blocks or pictures, in eval mode.

        Afterwards the network is in the mode it was in before, also when the call fails.
        """
        was_training = self.network.training
        self.cell.set_train(False)
        try:
            # A copy: the memory behind MindSpore's own array is used again by the next graph that runs.
            return self.cell(Tensor(batch, ms.float32)).asnumpy().copy()
        finally:
            self.network.set_train(was_training)

    def predict_block(self, image: np.ndarray) -> np.ndarray:
        return self.predict_batch(image[None] if image.ndim == 4 else image[None, None])[0]


class ExportedPredictor(ABC):
    """An exported model; the subclasses run one format each.

    Args:
        path: the model's file.
        shape: (N, 1, X, Y, Z) of its input, or of pictures (N, channels, H, W); -1 for an axis that may have any size,
            in multiples of 16, as the V-Net takes them.

    Raises:
        UserError: the file cannot be read.
    """

    def __init__(self, path: Path, shape: Sequence[int]):
        self.path = path
        self.shape = tuple(shape)

    @abstractmethod
    def names(self) -> tuple[str, str]:
        """Return the names of input and output as the file has them."""

    def predict_batch(self, batch: np.ndarray) -> np.ndarray:
        """Return the probability (N, X, Y, Z), or of C > 2 classes (N, C, X, Y, Z), float32 of blocks (N, 1, X, Y, Z);
        (N, H, W) of pictures (N, channels, H, W).

        Raises:
            ValueError: the batch has another shape than the model was exported with.
        """
        fits = all(have == want or want < 0 and have > 0 and have % 16 == 0
                   for have, want in zip(batch.shape, self.shape, strict=False))
        if batch.ndim != len(self.shape) or not fits:
            raise ValueError(f"input of shape {batch.shape}: the model was exported for {self.shape}")
        return self._run(np.ascontiguousarray(batch, np.float32))

    def predict_block(self, image: np.ndarray) -> np.ndarray:
        """Return the probability (X, Y, Z) or (C, X, Y, Z) of a block (X, Y, Z), which fills the model's batch.

        Raises:
            ValueError: the block has another shape than the model was exported with.
        """
        return self.predict_batch(np.repeat(image[None, None], self.shape[0], axis=0))[0]

    @abstractmethod
    def _run(self, batch: np.ndarray) -> np.ndarray:
        """Return the probability of a float32 batch of the model's shape."""


class MindIRPredictor(ExportedPredictor):
    """A MINDIR file, run by MindSpore on the device in use."""

    def __init__(self, path: Path, shape: Sequence[int]):
        super().__init__(path, shape)
        try:
            self.cell = nn.GraphCell(ms.load(str(path)))
        except (RuntimeError, ValueError) as error:
            raise UserError(f"model {path}: MindSpore {ms.__version__} cannot read it "
                            f"({str(error).strip().splitlines()[0]}); export the checkpoint again") from error

    def names(self) -> tuple[str, str]:
        model = ModelProto()
        model.ParseFromString(self.path.read_bytes())
        return model.graph.input[0].name, model.graph.output[0].name

    def _run(self, batch: np.ndarray) -> np.ndarray:
        return self.cell(Tensor(batch)).asnumpy()


class OnnxPredictor(ExportedPredictor):
    """An ONNX file, run by onnxruntime on the CPU."""

    def __init__(self, path: Path, shape: Sequence[int]):
        super().__init__(path, shape)
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(f"model {path}: ONNX needs the package onnxruntime; pip install onnxruntime") from error
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class that it exports
            raise UserError(f"model {path}: onnxruntime {onnxruntime.__version__} cannot read it "
                            f"({str(error).strip().splitlines()[0]}); export the checkpoint again") from error

    def names(self) -> tuple[str, str]:
        return self.session.get_inputs()[0].name, self.session.get_outputs()[0].name

    def _run(self, batch: np.ndarray) -> np.ndarray:
        return self.session.run(None, {self.names()[0]: batch})[0]


def recipe_of(checkpoint: Checkpoint, changes: Mapping[str, Any] | None = None,
              recipe_name: str = "vnet_promise12") -> EasyDict:
    """Return the recipe that a checkpoint was trained with, with `changes` applied.

    A checkpoint without training state, written by another program, gets the recipe `recipe_name`, and a warning
    in the log.

    Raises:
        UserError: the state names an unknown recipe or key, or a change is not allowed; names the checkpoint.
    """
    name: Any = recipe_name
    trained_with: Any = {}
    if not checkpoint.state:
        logger.warning("checkpoint %s carries no recipe (it is of another program): taking %s, with the overrides "
                       "given", checkpoint.path, recipe_name)
    else:
        name, trained_with = checkpoint.state.get("recipe_name"), checkpoint.state.get("recipe")
        if name not in RECIPES or not isinstance(trained_with, dict):
            raise UserError(f"checkpoint {checkpoint.path}: recipe {name!r} is unknown here; known: "
                            f"{', '.join(RECIPES)}. Use the version of this program that trained it")
    try:
        recipe = apply_overrides(RECIPES[name], trained_with)
    except UserError as error:
        raise UserError(f"checkpoint {checkpoint.path}: {error}. Use the version of this program that trained it"
                        ) from error
    return apply_overrides(recipe, changes or {})


def load_checkpoint_predictor(path: Path, changes: Mapping[str, Any] | None = None,
                              recipe_name: str = "vnet_promise12") -> tuple[NetworkPredictor, EasyDict, Checkpoint]:
    """Load a checkpoint into its network, ready to predict.

    Args:
        path: the checkpoint.
        changes: recipe keys to override, see `overrides.apply_overrides`.
        recipe_name: recipe of a checkpoint that carries none.

    Returns:
        The predictor, the recipe (the checkpoint's own with `changes`), and the checkpoint.

    Raises:
        UserError: the checkpoint cannot be read, or does not fit the recipe's network.
    """
    checkpoint = load_checkpoint(Path(path))
    recipe = recipe_of(checkpoint, changes, recipe_name)
    network = build_network(recipe)
    load_parameters(checkpoint, network)
    network.set_train(False)
    return NetworkPredictor(network, checkpoint.path), recipe, checkpoint
