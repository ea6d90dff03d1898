"""Checkpoints that are whole, verified on reading, and carry all that resuming and evaluating need."""

import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, nn

from src.errors import UserError
from src.files import atomic_path

logger = logging.getLogger(__name__)

_STATE_KEY = "vnet_state"
_NAME = re.compile(r"checkpoint_vnet-(\d+)_(\d+)\.ckpt")
BEST_NAME = "best.ckpt"
HISTORY_NAME = "history.csv"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back.

    Attributes:
        path: where it was read from.
        parameters: name -> parameter: network, optimiser, dropout counters, loss scale.
        state: what the trainer stored beside them (recipe, epoch, step, split, ...); empty for a foreign file.
    """

    path: Path
    parameters: dict[str, Parameter]
    state: dict[str, Any] = field(default_factory=dict)


def checkpoint_name(epoch: int, step: int) -> str:
    """Return `checkpoint_vnet-EPOCH_STEP.ckpt`; `step` counts within the epoch, as MindSpore's own callback does."""
    return f"checkpoint_vnet-{epoch}_{step}.ckpt"


def save_checkpoint(path: Path, cell: nn.Cell, state: dict[str, Any]) -> None:
    """Write all parameters of `cell` and the JSON-serialisable `state` to `path`, atomically and with a checksum."""
    parameters: list[dict[str, str | Tensor]] = [
        {"name": parameter.name, "data": parameter} for parameter in cell.get_parameters()]
    with atomic_path(path) as temporary:
        ms.save_checkpoint(parameters, str(temporary), append_dict={_STATE_KEY: json.dumps(state)}, crc_check=True)
        temporary.chmod(0o644)  # MindSpore writes 0400, which a later copy over the file stumbles on


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and verify its checksum.

    Raises:
        UserError: the file is missing, empty, cut short, damaged, or no checkpoint at all.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file; check the path")
    if path.suffix in (".mindir", ".onnx", ".air"):
        raise UserError(f"checkpoint {path}: is an exported model; predict from its bundle with predict.py --bundle, "
                        "or name the .ckpt that it was exported from")
    if path.suffix != ".ckpt":
        raise UserError(f"checkpoint {path}: MindSpore reads checkpoints named *.ckpt only; rename the file, or name "
                        "the right one")
    try:
        parameters = ms.load_checkpoint(str(path), crc_check=True)
    except Exception as error:  # ValueError, TypeError or protobuf's own, depending on the damage
        raise UserError(
            f"checkpoint {path}: {path.stat().st_size} bytes that cannot be read whole (cut short, damaged, or no "
            "checkpoint); use an earlier one, or copy the file again") from error
    text = parameters.pop(_STATE_KEY, None)
    return Checkpoint(path, parameters, json.loads(text) if text is not None else {})


def load_parameters(checkpoint: Checkpoint, cell: nn.Cell) -> None:
    """Copy the checkpoint's parameters into `cell`; those that `cell` does not have are ignored.

    Raises:
        UserError: a parameter of `cell` is missing from the checkpoint or has another shape there.
    """
    wanted = {parameter.name: parameter for parameter in cell.get_parameters()}
    problems = []
    for name, parameter in wanted.items():
        found = checkpoint.parameters.get(name)
        if found is None:
            # Dropout counters play no part at inference, and checkpoints of other programs have none.
            if not name.endswith("dropout.counter"):
                problems.append(f"{name} is missing")
        elif found.shape != parameter.shape:
            problems.append(f"{name} has shape {found.shape}, expected {parameter.shape}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(f"checkpoint {checkpoint.path} does not fit the network: {'; '.join(problems[:5])}{more}. "
                        "Use the recipe (variant, activation, base_channels, out_kernel) it was trained with")
    ms.load_param_into_net(cell, {name: checkpoint.parameters[name] for name in wanted
                                  if name in checkpoint.parameters}, strict_load=False)


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the regular checkpoints in `folder`, oldest first by epoch and step; the best one is not among them."""
    found = []
    for path in folder.glob("checkpoint_vnet-*.ckpt"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((int(match[1]), int(match[2]), path))
    return [path for _, _, path in sorted(found)]


def load_newest(folder: Path) -> Checkpoint | None:
    """Return the newest readable checkpoint in `folder`, or None when there is none at all.

    One that cannot be read is refused by name in the log, and the one before it is tried.

    Raises:
        UserError: there are checkpoints, and none can be read.
    """
    paths = list_checkpoints(folder)
    for path in reversed(paths):
        try:
            checkpoint = load_checkpoint(path)
        except UserError as error:
            logger.warning("refused: %s", error)
            continue
        if checkpoint.state:
            return checkpoint
        # The state is written last, so a file cut exactly between two records lacks it.
        logger.warning("refused: checkpoint %s has no training state (cut short, or of another program)", path)
    if paths:
        raise UserError(f"run folder {folder.parent}: none of its {len(paths)} checkpoints can be read; "
                        "restore one from a copy, or start a new run")
    return None


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the `keep` newest regular checkpoints, and temporary files that a killed run left."""
    for path in list_checkpoints(folder)[:-keep]:
        path.unlink()
    for path in folder.glob(".*.tmp.ckpt"):
        path.unlink()


def run_folder_of(checkpoint_path: Path) -> Path | None:
    """Return the run folder that holds `checkpoint_path` (as RUN/ckpt/FILE), or None for a file elsewhere."""
    folder = checkpoint_path.absolute().parent
    return folder.parent if folder.name == "ckpt" and (folder.parent / "recipe.json").is_file() else None
