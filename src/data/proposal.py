"""Recipe settings that suit a data set, each with its reason, worked out from the data set's fingerprint."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from src.config import vnet_cfg
from src.data.fingerprint import TAILS, Fingerprint, by_axis
from src.data.memory import held_gib, training_memory_gib
from src.errors import UserError
from src.overrides import apply_overrides

_STEP = 16  # VolSize comes in multiples of it
_FLOOR = 32  # voxels that an edge of a patch keeps
_MARGIN = 0.1  # added to the foreground's box, and at least
_MARGIN_VOXELS = 8  # on either side
_ANISOTROPY = 3  # from which ratio of spacings, and of sizes, an axis is the coarse one; as in nnU-Net
_HELD = 1.25  # cases in memory for each training case: with a split of 80 to 20 the validation cases as well
_USED = 0.8  # of the memory, for what the estimate leaves out
_LARGEST_BLOCK = 4 * 128 * 128 * 64  # voxels; a step on two cores takes some 12 s then
_SAMPLES_SEEN = 500 * 40  # in the default recipe's training on PROMISE12
_FEWEST_EPOCHS, _MOST_EPOCHS = 50, 1000
_RARE = 0.05  # share of cases up to which a property is left out of account
_ONE_PART = 0.9  # share of the foreground that the largest component has to hold for the rest to count as specks


@dataclass(frozen=True)
class Proposal:
    """Settings for a data set.

    Attributes:
        settings: recipe keys that `train.py --config` takes over the default recipe.
        reasons: a sentence for each of them.
        steps: of the whole training on one rank.
        memory_gib: that the training is estimated to take.
        notes: what the fingerprint cannot say, in sentences.
    """

    settings: dict[str, Any]
    reasons: dict[str, str]
    steps: int
    memory_gib: float
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the settings with their reasons as lines to be read."""
        width = max(map(len, self.settings))
        return [*(f"{key:<{width}} = {value}: {self.reasons[key]}" for key, value in self.settings.items()),
                *(f"note: {note}" for note in self.notes)]


def propose(fingerprint: Fingerprint, memory_gib: float, task: str = "promise12") -> Proposal:
    """Work out settings for training the V-Net on a data set.

    Args:
        fingerprint: of the training cases.
        memory_gib: that the training may take, of which one fifth is kept free.
        task: of the recipe.

    Raises:
        UserError: the memory is too small for any block; says how much is needed.
    """
    spacing, spacing_reason = target_spacing(fingerprint)
    settings: dict[str, Any] = {"dstRes": spacing}
    reasons = {"dstRes": spacing_reason}
    block, batch_size, patches, memory, why = _block(fingerprint, spacing, memory_gib)
    settings |= {"VolSize": block, "batch_size": batch_size, "patches": patches}
    reasons |= why
    if patches:
        settings["loss"] = "dice_ce"
        reasons["loss"] = ("patches without foreground give the Dice of a sample no gradient, and the cross-entropy "
                           "learns from them")
    count = len(fingerprint.cases)
    epochs = int(np.clip(round(_SAMPLES_SEEN / count), _FEWEST_EPOCHS, _MOST_EPOCHS))
    steps = epochs * -(-count // batch_size)
    settings["epochs"] = epochs
    reasons["epochs"] = (f"with {count} cases {steps} steps; the default recipe's training sees {_SAMPLES_SEEN} "
                         f"samples, and fewer than {_FEWEST_EPOCHS} or more than {_MOST_EPOCHS} epochs are not "
                         "proposed")
    settings["classes"] = fingerprint.classes
    reasons["classes"] = f"background and {fingerprint.classes - 1} more in the labels"
    spiky = sum(case.spiky for case in fingerprint.cases)
    clip = spiky > _RARE * count
    settings["intensity_percentiles"] = list(TAILS) if clip else [0.0, 100.0]
    reasons["intensity_percentiles"] = (
        f"in {spiky} of {count} cases the lowest or highest 0.5 % of voxels make the range of intensities longer by "
        f"more than one half; {'they are cut off' if clip else 'so the whole range is kept'}")
    scattered = sum(case.largest_share < _ONE_PART for case in fingerprint.cases)
    settings["largest_component"] = scattered <= _RARE * count
    reasons["largest_component"] = (f"in {scattered} of {count} labels the largest connected component holds less than "
                                    f"{100 * _ONE_PART:g} % of the foreground")
    if task != vnet_cfg.task:
        settings |= {"task": task, "scoring": "none"}
        reasons |= {"task": "the layout of the folder", "scoring": "that of PROMISE12 is for its cases alone"}
    apply_overrides(vnet_cfg, settings)  # what is proposed can be used
    prostates = ("scoring=promise12, the default, adds the tables of that challenge, which are for prostates; set "
                 "scoring=none for another organ")
    return Proposal(settings, reasons, steps, memory, (prostates,) if task == vnet_cfg.task else ())


def target_spacing(fingerprint: Fingerprint) -> tuple[list[float], str]:
    """Return dstRes, mm (x, y, z), and its reason: the median spacing, finer along a coarse axis.

    An axis is coarse when its median spacing is more than 3 times that of each other axis, and its median size less
    than one third of theirs. It gets the 10th percentile of its spacings, so that few volumes lose slices, though no
    less than the larger of the other spacings; as in nnU-Net (Isensee et al. 2021).
    """
    spacings, sizes = fingerprint.table("spacing"), np.median(fingerprint.table("size"), axis=0)
    target = np.median(spacings, axis=0)
    coarse = int(target.argmax())
    others = [axis for axis in range(3) if axis != coarse]
    if target[coarse] > _ANISOTROPY * target[others].max() and _ANISOTROPY * sizes[coarse] < sizes[others].min():
        target[coarse] = max(np.percentile(spacings[:, coarse], 10), target[others].max())
        reason = (f"the median spacing; along {'xyz'[coarse]}, the coarse axis, the 10th percentile, so that few "
                  "volumes lose slices")
    else:
        reason = "the median spacing"
    return [round(float(value), 4) for value in target], reason


def _block(fingerprint: Fingerprint, spacing: Sequence[float],
           memory_gib: float) -> tuple[list[int], int, bool, float, dict[str, str]]:
    """Return VolSize, batch size, whether it is a patch, the memory it takes, and the reasons of these."""
    target = np.array(spacing)
    grids = np.ceil(fingerprint.table("extent_mm") / target - 1e-3).astype(int)
    needed = fingerprint.table("centred_mm").max(axis=0) / target
    centre = np.minimum(_rounded_up(np.maximum(needed * (1 + _MARGIN), needed + 2 * _MARGIN_VOXELS)),
                        _rounded_up(grids.max(axis=0))).tolist()
    count = len(grids)
    budget = _USED * memory_gib
    in_memory = _HELD * count * prod(centre)
    for batch_size in (2, 1):
        memory = training_memory_gib(centre, batch_size, in_memory)
        if memory <= budget and prod(centre) <= _LARGEST_BLOCK and _trains(centre, batch_size):
            return centre, batch_size, False, memory, {
                "VolSize": f"the centre block that holds the foreground of all cases ({by_axis(np.ceil(needed))} "
                           f"voxels), and {_MARGIN_VOXELS} voxels or more around it as far as the volumes reach, in "
                           f"multiples of {_STEP}",
                "batch_size": _batch_reason(batch_size, memory, memory_gib),
                "patches": "the centre block is enough"}
    too_large = (f"the centre block that holds the foreground of all cases would be {by_axis(centre)}, " + (
        f"more than {_LARGEST_BLOCK} voxels" if prod(centre) > _LARGEST_BLOCK else
        f"and take {training_memory_gib(centre, 1, in_memory):.2f} of {memory_gib:.2f} GiB, of which "
        f"{100 * (1 - _USED):.0f} % stay free"))
    patch, batch_size, memory, held = _patch(grids, target, budget, _HELD)
    # What memory would allow if volumes were not held in it tells whether they are what limits the patch.
    without, batch_size_without, memory_without, _ = _patch(grids, target, budget, 0)
    whole = f"{held:.1f} GiB are the whole volumes of training and validation cases, which stay in memory"
    if memory > budget:
        cause = f", of which {whole}" if memory_without <= budget else ""
        remedy = "give more (--memory_gib), or fewer cases" if cause else "give more (--memory_gib)"
        raise UserError(f"memory of {memory_gib:.1f} GiB: training on these {count} cases needs about "
                        f"{memory / _USED:.1f} GiB{cause}; {remedy}")
    limited = batch_size_without * prod(without) > batch_size * prod(patch)
    return patch, batch_size, True, memory, {
        "VolSize": "the largest patch that memory and time allow, its edges as equal in mm as can be, at most the "
                   f"median volume of {by_axis(np.median(grids, axis=0))} voxels"
                   + (f"; held volumes limit it: {whole}" if limited else ""),
        "batch_size": _batch_reason(batch_size, memory, memory_gib), "patches": too_large}


def _patch(grids: np.ndarray, target: np.ndarray, budget: float,
           held_share: float) -> tuple[list[int], int, float, float]:
    """Return the largest patch that fits into the budget, else the smallest one; batch size, GiB, and GiB held.

    Args:
        grids: of the resampled volumes, voxels (cases, 3).
        target: spacing, mm (3,).
        budget: GiB.
        held_share: of the volumes that stay in memory, as multiples of `grids`.
    """
    patch = _rounded_up(np.median(grids, axis=0))
    floor = np.minimum(patch, _FLOOR)
    while True:
        last = np.array_equal(patch, floor)
        held = held_share * np.maximum(grids, patch).prod(axis=1).sum()
        block = patch.tolist()
        for batch_size in (2, 1) if last else (2,):
            memory = training_memory_gib(block, batch_size, held)
            if memory <= budget and prod(block) <= _LARGEST_BLOCK and _trains(block, batch_size):
                return block, batch_size, memory, held_gib(held)
        if last:
            batch_size = 1 if _trains(block, 1) else 2
            return block, batch_size, training_memory_gib(block, batch_size, held), held_gib(held)
        longest = int(np.where(patch > floor, patch * target, 0).argmax())
        patch[longest] -= _STEP


def _trains(block: Sequence[int], batch_size: int) -> bool:
    """Whether batch norm has two values a channel at the bottom of the network, 16 times smaller."""
    return batch_size * prod(count // _STEP for count in block) > 1


def _batch_reason(batch_size: int, memory: float, memory_gib: float) -> str:
    taken = f"the training is estimated to take {memory:.1f} of {memory_gib:.1f} GiB"
    return taken if batch_size > 1 else f"{taken}, and two blocks would take more than {100 * _USED:g} % of it"


def _rounded_up(voxels: np.ndarray) -> np.ndarray:
    return (np.ceil(np.maximum(voxels, 1) / _STEP - 1e-6) * _STEP).astype(int)
