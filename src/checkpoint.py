"""Checkpoints that are whole, verified on reading, and carry all that resuming and evaluating need."""

import json
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, nn

from src.errors import UserError
from src.files import atomic_path

logger = logging.getLogger(__name__)

# 1: no version in the file. 2: the version in the state; parameters are named after the units of `src/ops/unit.py`.
FORMAT_VERSION = 2
_STATE_KEY = "vnet_state"
_VERSION_KEY = "format_version"  # in the state of the file, not in that of `Checkpoint`
_NAME = re.compile(r"checkpoint_(?:vnet|unet)-(\d+)_(\d+)\.ckpt")
BEST_NAME = "best.ckpt"
HISTORY_NAME = "history.csv"
PRETRAINED_KEY = "pretrained_on"  # in the state: what the weights that the run began with were trained on
AVERAGE_PREFIX = "ema."  # of the name of an averaged weight

# Version 1 -> 2, for a network's parameters and, with a prefix such as `moment1.`, the optimiser's. The first that
# matches counts. Files of version 1 that have the names of version 2 already exist as well.
_ONLY_IN_VERSION_1 = "output.last.weight"  # every network had it
_RENAMED = tuple((re.compile(rf"\b{old}"), new) for old, new in (
    (r"(down|up)s\.(\d)\.\1\.", r"\1s.\2.\1.conv."),
    (r"(down|up)s\.(\d)\.(norm|act)\.", r"\1s.\2.\1.\3."),
    (r"(down|up)s\.(\d)\.out_act\.", r"\1s.\2.block.last.residual_act."),
    (r"downs\.(\d)\.dropout\.", r"downs.\1.block.dropout."),
    (r"input\.act\.", "input.residual_act."),
    (r"output\.first\.0\.", "output.first.conv."),
    (r"output\.first\.1\.", "output.first.norm."),
    (r"output\.first\.2\.", "output.first.act."),
    (r"output\.last\.", "output.last.conv."),
))
_UNIT_OF_VERSION_1 = re.compile(r"\b((?:down|up)s\.\d\.)units\.(\d)\.")


class LaterVersion(UserError):
    """A checkpoint of a format that this version of the program does not know yet."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back.

    Attributes:
        path: where it was read from.
        parameters: name, as of `FORMAT_VERSION`, -> parameter: network, optimiser, dropout counters, loss scale.
        state: what the trainer stored beside them (recipe, epoch, step, split, ...); empty for a foreign file.
    """

    path: Path
    parameters: dict[str, Parameter]
    state: dict[str, Any] = field(default_factory=dict)


def checkpoint_name(epoch: int, step: int, recipe_name: str = "vnet_promise12") -> str:
    """Return `checkpoint_vnet-EPOCH_STEP.ckpt`, or `checkpoint_unet-...` of a U-Net's recipe.

    `step` counts within the epoch, as MindSpore's own callback does.
    """
    return f"checkpoint_{network_name(recipe_name)}-{epoch}_{step}.ckpt"


def network_name(recipe_name: str) -> str:
    """Return what files of a recipe's network are called: `vnet`, or `unet` of a U-Net's recipe."""
    return "vnet" if recipe_name.startswith("vnet") else "unet"


def save_checkpoint(path: Path, cell: nn.Cell, state: dict[str, Any]) -> None:
    """Write all parameters of `cell` and the JSON-serialisable `state` to `path`, atomically and with a checksum.

    The file says the version of its format, see `FORMAT_VERSION`.
    """
    text = json.dumps({**state, _VERSION_KEY: FORMAT_VERSION})
    parameters: list[dict[str, str | Tensor]] = [
        {"name": parameter.name, "data": parameter} for parameter in cell.get_parameters()]
    with atomic_path(path) as temporary:
        ms.save_checkpoint(parameters, str(temporary), append_dict={_STATE_KEY: text}, crc_check=True)
        temporary.chmod(0o644)  # MindSpore writes 0400, which a later copy over the file stumbles on


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, of this format or an earlier one, and verify its checksum.

    Raises:
        UserError: the file is missing, empty, cut short, damaged, or no checkpoint at all.
        LaterVersion: it is of a later format than `FORMAT_VERSION`.
    """
    if path.is_dir():
        last = next(iter([*list_checkpoints(path), *list_checkpoints(path / "ckpt")][-1:]), "checkpoint_*.ckpt")
        raise UserError(f"checkpoint {path}: is a folder, expected a file; name a checkpoint in it, such as {last}")
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
    state = json.loads(text) if text is not None else {}
    version = state.pop(_VERSION_KEY, 1)
    if version > FORMAT_VERSION:
        raise LaterVersion(f"checkpoint {path}: format version {version}, expected {FORMAT_VERSION} at most; it is of "
                           "a later version of this program: use that one")
    if version == 1 and _ONLY_IN_VERSION_1 in parameters:
        logger.info("checkpoint %s is of an earlier version: its parameters get the names of this one", path)
        parameters = {_name_of_version_2(name, parameters): parameter for name, parameter in parameters.items()}
    return Checkpoint(path, parameters, state)


def is_own(path: Path) -> bool:
    """Whether a file is a checkpoint that a run of this program wrote, of whatever version, whole or damaged.

    False where it cannot be read at all.
    """
    try:
        return path.suffix == ".ckpt" and _STATE_KEY in ms.load_checkpoint(str(path))
    except Exception:  # as in `load_checkpoint`; who reads it says what is wrong
        return False


def cases_behind(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a checkpoint's weights were trained on: `data_path` and `train_names` of its run, then of the runs
    whose weights that one began with (recipe key `pretrained`)."""
    names = list(state.get("train_names", ()))
    own = [{"data_path": state.get("data_path", ""), "train_names": names}] if names else []
    return [*own, *state.get(PRETRAINED_KEY, ())]


def _name_of_version_2(name: str, names: Collection[str]) -> str:
    """Return what the parameter `name` of a version 1 checkpoint is called now; `names` are all of its parameters."""
    unit = _UNIT_OF_VERSION_1.search(name)
    if unit:
        # The last unit of a block has a name of its own since it takes the residual.
        is_last = f"{unit[1]}units.{int(unit[2]) + 1}.conv.weight" not in names
        return name.replace(unit[0], f"{unit[1]}block.last." if is_last else f"{unit[1]}block.units.{unit[2]}.")
    for pattern, replacement in _RENAMED:
        renamed, count = pattern.subn(replacement, name)
        if count:
            return renamed
    return name


def load_parameters(checkpoint: Checkpoint, cell: nn.Cell, resume: bool = False) -> None:
    """Copy the checkpoint's parameters into `cell`; those that `cell` does not have are ignored.

    A network to predict with gets the averaged weights where the checkpoint holds them, with a line in the log.

    Args:
        checkpoint: as read.
        cell: a network, or with `resume` a train step.
        resume: each parameter under its own name: training goes on from the newest weights.

    Raises:
        UserError: a parameter of `cell` is missing from the checkpoint or has another shape there.
    """
    values = dict(checkpoint.parameters)
    if not resume:
        averages = {name.removeprefix(AVERAGE_PREFIX): value for name, value in values.items()
                    if name.startswith(AVERAGE_PREFIX)}
        if averages:
            logger.info("checkpoint %s: taking the averaged weights (ema_decay)", checkpoint.path)
        values |= averages
    wanted = {parameter.name: parameter for parameter in cell.get_parameters()}
    problems = []
    for name, parameter in wanted.items():
        found = values.get(name)
        if found is None:
            # Dropout counters play no part at inference, and checkpoints of other programs have none.
            if not name.endswith("dropout.counter"):
                problems.append(f"{name} is missing")
        elif found.shape != parameter.shape:
            problems.append(f"{name} has shape {found.shape}, expected {parameter.shape}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(f"checkpoint {checkpoint.path} does not fit the network: {'; '.join(problems[:5])}{more}. "
                        "Use the recipe (architecture, variant, activation, norm, base_channels, upsampling, "
                        "out_kernel, output_channels, classes, deep_supervision, ema_decay) it was trained with")
    ms.load_param_into_net(cell, {name: values[name] for name in wanted if name in values}, strict_load=False)


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the regular checkpoints in `folder`, oldest first by epoch and step; the best one is not among them."""
    found = []
    for path in folder.glob("checkpoint_*.ckpt"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((int(match[1]), int(match[2]), path))
    return [path for _, _, path in sorted(found)]


def load_newest(folder: Path) -> Checkpoint | None:
    """Return the newest readable checkpoint in `folder`, or None when there is none at all.

    One that cannot be read is refused by name in the log, and the one before it is tried.

    Raises:
        UserError: there are checkpoints, and none can be read.
        LaterVersion: the newest whole one is of a later format; going on from an older one would lose its epochs.
    """
    paths = list_checkpoints(folder)
    for path in reversed(paths):
        try:
            checkpoint = load_checkpoint(path)
        except LaterVersion:
            raise
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
