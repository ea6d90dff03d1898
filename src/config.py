"""The recipes' settings and the rules for overriding them.

Edit the values here, or leave the file alone and override single keys on the command line
(`--set epochs=100 lr=0.001`) or from a JSON file (`--config my_recipe.json`).
Every key has an effect, and `tests/test_config.py` names the test that shows it.
"""

import copy
import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from easydict import EasyDict

from src.errors import UserError
from src.lr_schedule import SCALING_RULES

vnet_cfg = EasyDict(
    {
        # Data
        "task": "promise12",  # data set layout, a name in src/data/__init__.py's TASKS
        "fold": -1,  # -1: split files as they are; k >= 0: fold k of `folds` of the training split is validation
        "folds": 5,
        "fold_seed": 1,  # of the shuffle that makes the folds; `seed` changes training alone
        "classes": 2,  # of the labels, background included: 0 .. classes - 1
        "dirResult": "results/infer",  # metrics and report of checkpoints that lie in no run folder
        "dirPredictionImage": "results/prediction",  # predicted masks
        "normDir": False,  # bring volumes to identity direction first
        "dstRes": [1.0, 1.0, 1.5],  # mm, (x, y, z)
        "VolSize": [128, 128, 64],  # voxels, (x, y, z)
        "intensity_percentiles": [0.0, 100.0],  # mapped to [0, 1]; [0.5, 99.5] tames spikes
        "patches": False,  # train on random blocks of the whole volume, predict by sliding window; else a centre block
        "patches_per_case": 1,  # each epoch
        "foreground_share": 0.33,  # of the patches, placed so that they hold a foreground voxel of a random class
        "augment": False,  # the transforms below, each on a sample with the given probability
        "aug_deform": 0.5,  # B-spline deformation, a 2 x 2 x 2 control grid (Milletari et al. 2016)
        "aug_histogram": 0.3,  # histogram matching to another training case (Milletari et al. 2016)
        "aug_rotate": 0.5,
        "aug_scale": 0.5,
        "aug_shift": 0.5,
        "aug_mirror": 0.5,  # along each of mirror_axes
        "mirror_axes": "x",  # any of x, y, z, or none
        "aug_noise": 0.15,
        "aug_blur": 0.15,
        "aug_brightness": 0.3,
        "aug_contrast": 0.3,
        "aug_gamma": 0.3,
        "aug_low_resolution": 0.15,
        # Network
        "variant": "default",  # default: batch norm; paper: as in Milletari et al. 2016
        "activation": "auto",  # elu, prelu, or auto: the variant's own
        "sync_bn": False,  # batch norm over the batches of all ranks, in place of each rank's own
        "base_channels": 16,
        "dropout": 0.5,
        "out_kernel": 1,  # last convolution; 3 in the first MindSpore release
        "deep_supervision": False,  # logits at the coarser decoder stages as well, while training
        # Optimisation
        "batch_size": 4,  # per rank
        "epochs": 500,
        "loss": "dice",  # dice, dice_ce, dice_focal, tversky, focal, bce
        "dice_over": "sample",  # what a Dice or Tversky ratio is taken over: each sample, or the batch as one volume
        "focal_gamma": 2.0,
        "tversky_alpha": 0.3,  # weight of false positives
        "tversky_beta": 0.7,  # weight of false negatives
        "optimizer": "adam",  # adam, adamw, sgd
        "lr": 0.0005,
        "lr_ascend": 0.001,  # base rate on Ascend, in place of lr
        "weight_decay": 1e-4,
        "momentum": 0.99,  # sgd only
        "warmup_step": 120,
        "warmup_ratio": 0.3,
        "lr_scaling": "none",  # of the rate by the number of ranks: none, linear, sqrt
        "grad_clip": 0.0,  # largest global gradient norm; 0: no clipping
        "ema_decay": 0.0,  # of the average of the weights that validation and prediction use; 0: no average
        "amp_level": "auto",  # O0 (fp32), O2, O3 (fp16, not CPU), bf16 (not GPU), or auto: O0 on CPU, else O2
        "conv_algorithm": "auto",  # of the 5³ convolutions on CPU: winograd, direct, or auto: the faster one
        "loss_scaling": "auto",  # off, fixed, dynamic, or auto: dynamic with fp16, else off
        "loss_scale": 1024.0,
        "seed": 1,
        # Prediction
        "window_overlap": 0.5,  # of neighbouring windows, share of their edge; with patches
        "tta": "none",  # mirror axes whose copies are predicted as well and averaged: any of x, y, z, or none
        "largest_component": True,  # keep only the largest connected component of the foreground
        "scoring": "promise12",  # further tables of an evaluation: promise12, or none
        # Run
        "val_every": 10,  # epochs between validations; 0: only after the last epoch
        "early_stopping": 0,  # validations without a better Dice before stopping; 0: off
        "save_every": 1,  # epochs between checkpoints
        "keep_checkpoint_max": 10,
    }
)

# 3-D U-Net on MSD Task01_BrainTumour, tumour against background, on one device or split over two.
unet3d_brain_cfg = EasyDict(
    {
        # Data
        "task": "brain_tumour",
        "fold": -1,
        "folds": 5,
        "fold_seed": 1,
        "dirResult": "results/infer",
        "dirPredictionImage": "results/prediction",
        "target_size": [0, 0, 0],  # voxels, (x, y, z), to resize to by nearest neighbour; zeros: as on disk
        "normalise_by": "image",  # what intensities are divided by: the maximum of the image, or of each modality
        # Optimisation
        "batch_size": 1,  # volumes of a micro-batch, over which batch norm takes its statistics
        "micro_batches": 1,  # whose mean gradient makes a step; a pipeline needs several to keep both devices busy
        "epochs": 30,
        "loss": "bce",  # bce, dice, dice_ce
        "optimizer": "adam",
        "lr": 1e-5,
        "lr_ascend": 1e-5,
        "lr_schedule": "constant",  # after the warm-up: constant, cosine
        "lr_scaling": "none",
        "weight_decay": 0.0,
        "momentum": 0.9,
        "warmup_step": 0,
        "warmup_ratio": 1.0,
        "grad_clip": 0.0,
        "amp_level": "O0",
        "loss_scaling": "auto",
        "loss_scale": 1024.0,
        "seed": 1,
        # Several ranks
        "parallel": "pipeline",  # what two ranks share: the network (pipeline) or the cases (data)
        "pipeline_split": "auto",  # blocks of the first rank, 1 to 12 (5: encoder), or auto: by measured times
        # Run
        "log_every": 1,  # steps between log lines of the loss; 0: one line an epoch
        "val_every": 1,
        "early_stopping": 0,
        "save_every": 1,
        "keep_checkpoint_max": 10,
    }
)

# V-Net on MSD Task04_Hippocampus, anterior and posterior.
vnet_hippocampus_cfg = EasyDict(
    {
        **copy.deepcopy(vnet_cfg),
        "task": "hippocampus",
        "classes": 3,
        "dstRes": [1.0, 1.0, 1.0],
        "VolSize": [48, 64, 48],
        "intensity_percentiles": [0.5, 99.5],
        "scoring": "none",
    }
)

DEFAULT_RECIPE = "vnet_promise12"
RECIPES: dict[str, EasyDict] = {DEFAULT_RECIPE: vnet_cfg, "vnet_hippocampus": vnet_hippocampus_cfg,
                                "unet3d_brain": unet3d_brain_cfg}
UNET3D_BLOCKS = 13  # of the 3-D U-Net, between any two of which a pipeline can cut it

_AXES = ("none", "x", "y", "z", "xy", "xz", "yz", "xyz")
_CHOICES: dict[str, tuple[str, ...]] = {
    "variant": ("default", "paper"),
    "activation": ("auto", "elu", "prelu"),
    "loss": ("dice", "dice_ce", "dice_focal", "tversky", "focal", "bce"),
    "dice_over": ("sample", "batch"),
    "mirror_axes": _AXES,
    "tta": _AXES,
    "scoring": ("none", "promise12"),
    "optimizer": ("adam", "adamw", "sgd"),
    "lr_scaling": SCALING_RULES,
    "amp_level": ("auto", "O0", "O2", "O3", "bf16"),
    "conv_algorithm": ("auto", "winograd", "direct"),
    "loss_scaling": ("auto", "off", "fixed", "dynamic"),
    "normalise_by": ("image", "modality"),
    "lr_schedule": ("cosine", "constant"),
    "parallel": ("pipeline", "data"),
    "pipeline_split": ("auto", *map(str, range(1, UNET3D_BLOCKS))),
}
_TOO_LARGE = 2**31  # of any number: infinity included, NaN compares False; seeds and counts have to fit 32 bits
_TYPE_NAMES = {bool: "true or false", int: "a whole number below 2^31", float: "a number", str: "a word"}
_SHARES = ("foreground_share", "aug_deform", "aug_histogram", "aug_rotate", "aug_scale", "aug_shift", "aug_mirror",
           "aug_noise", "aug_blur", "aug_brightness", "aug_contrast", "aug_gamma", "aug_low_resolution")
_POSITIVE = ("folds", "base_channels", "batch_size", "epochs", "save_every", "keep_checkpoint_max", "loss_scale",
             "micro_batches", "patches_per_case")
_NOT_NEGATIVE = ("dropout", "lr", "lr_ascend", "weight_decay", "momentum", "warmup_step", "warmup_ratio",
                 "grad_clip", "val_every", "early_stopping", "seed", "log_every", "fold_seed", "focal_gamma",
                 "tversky_alpha", "tversky_beta", "ema_decay", "window_overlap")


def load_recipe(name: str = DEFAULT_RECIPE, config_file: str | Path | None = None,
                overrides: Iterable[str] = ()) -> EasyDict:
    """Return a copy of the recipe `name` with the overrides of a JSON file and of the command line, in that order.

    Args:
        name: a key of `RECIPES`.
        config_file: JSON object of keys to override.
        overrides: `KEY=VALUE` items; values are read as JSON, and as plain text where they are no JSON.

    Raises:
        UserError: unknown recipe or key (with the nearest name), wrong type, or a value out of range.
    """
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}{_nearest(name, RECIPES)}; known: {', '.join(RECIPES)}")
    return apply_overrides(RECIPES[name], read_changes(config_file, overrides))


def read_changes(config_file: str | Path | None = None, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Return the keys and values of a JSON file and of `KEY=VALUE` items; `apply_overrides` checks them.

    Raises:
        UserError: the file cannot be read as a JSON object, or an item has no `=`.
    """
    changes = _read_override_file(Path(config_file)) if config_file is not None else {}
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator:
            raise UserError(f"override {item!r}: expected KEY=VALUE, for example epochs=100")
        changes[key.strip()] = _parse_value(text)
    return changes


def apply_overrides(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> EasyDict:
    """Return a deep copy of `recipe` with `changes` applied, every key and value checked.

    Raises:
        UserError: as `load_recipe`.
    """
    result = EasyDict(copy.deepcopy(dict(recipe)))
    for key, value in changes.items():
        if key not in result:
            raise UserError(f"unknown recipe key {key!r}{_nearest(key, result)}; the keys are in src/config.py")
        result[key] = _checked_type(key, value, result[key])
    _check_ranges(result)
    return result


def plain(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe as plain JSON types, for `recipe.json` and checkpoints."""
    return json.loads(json.dumps(dict(recipe)))


def _read_override_file(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"recipe file {path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise UserError(f"recipe file {path}: not valid JSON ({error}); expected an object of keys") from error
    if not isinstance(content, dict):
        raise UserError(f"recipe file {path}: found a JSON {type(content).__name__}, expected an object of keys")
    return content


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False}.get(text, text)


def _nearest(name: str, known: Iterable[str]) -> str:
    lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    return f", did you mean {lower[close[0]]!r}?" if close else ""


def _checked_type(key: str, value: Any, present: Any) -> Any:
    """Return `value` in the type of the `present` value, or raise; an int is a fine float, a bool is no number."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _TOO_LARGE
    if isinstance(present, bool):
        fits = isinstance(value, bool)
    elif isinstance(present, int):
        fits = number and float(value).is_integer()
        value = int(value) if fits else value
    elif isinstance(present, float):
        fits = number
        value = float(value) if fits else value
    elif isinstance(present, (list, tuple)):
        fits = isinstance(value, (list, tuple)) and len(value) == len(present)
        value = [_checked_type(key, item, like) for item, like in zip(value, present, strict=True)] if fits else value
    else:
        if key == "pipeline_split" and number:
            value = str(value)  # a number or `auto`
        fits = isinstance(value, type(present))
    if not fits:
        expected = _TYPE_NAMES.get(type(present)) or f"{len(present)} numbers in brackets, without spaces or quoted"
        raise UserError(f"recipe key {key!r}: found {value!r}, expected {expected} (such as {json.dumps(present)})")
    return value


def _check_ranges(recipe: Mapping[str, Any]) -> None:
    def require(condition: bool, key: str, expected: str) -> None:
        if not condition:
            raise UserError(f"recipe key {key!r}: found {recipe[key]!r}, expected {expected}")

    for key in set(_CHOICES) & set(recipe):
        near = _nearest(str(recipe[key]), _CHOICES[key])
        require(recipe[key] in _CHOICES[key], key, f"one of {', '.join(_CHOICES[key])}{near}")
    for key in set(_POSITIVE) & set(recipe):
        require(recipe[key] > 0, key, "a number above 0")
    for key in set(_NOT_NEGATIVE) & set(recipe):
        require(recipe[key] >= 0, key, "a number of 0 or more")
    require(recipe["momentum"] < 1, "momentum", "a number below 1")
    require(recipe["warmup_ratio"] <= 1, "warmup_ratio", "a share of the base rate, at most 1")
    require(-1 <= recipe["fold"] < recipe["folds"], "fold", f"-1, or 0 to folds - 1 = {recipe['folds'] - 1}")
    if "target_size" in recipe:
        _check_unet3d(recipe, require)
    else:
        _check_vnet(recipe, require)


def _check_vnet(recipe: Mapping[str, Any], require: Callable[[bool, str, str], None]) -> None:
    require(recipe["task"] != "brain_tumour", "task", "a data set of one channel; this one has --recipe unet3d_brain")
    require(recipe["dropout"] < 1, "dropout", "a probability below 1")
    require(2 <= recipe["classes"] <= 16, "classes", "2 to 16, background included")
    require(recipe["ema_decay"] < 1, "ema_decay", "a number below 1")
    require(recipe["window_overlap"] < 1, "window_overlap", "a share below 1")
    for key in _SHARES:
        require(0 <= recipe[key] <= 1, key, "a number from 0 to 1")
    require(recipe["out_kernel"] in (1, 3), "out_kernel", "1 or 3")
    require(all(value > 0 for value in recipe["dstRes"]), "dstRes", "spacings above 0 mm")
    low, high = recipe["intensity_percentiles"]
    require(0 <= low < high <= 100, "intensity_percentiles", "two rising percentiles between 0 and 100")
    # Four halvings in the network; a block that does not divide would come back smaller than it went in.
    require(all(n > 0 and n % 16 == 0 for n in recipe["VolSize"]), "VolSize", "multiples of 16")
    # Batch norm at the bottom, 16 times smaller, needs two values a channel: of one, the variance is not defined
    # (MindSpore's moving variance becomes NaN).
    bottom = recipe["batch_size"] * math.prod(n // 16 for n in recipe["VolSize"])
    require(recipe["variant"] != "default" or bottom > 1, "batch_size",
            f"at least 2 with variant 'default' and VolSize {recipe['VolSize']}, or a larger VolSize")


def _check_unet3d(recipe: Mapping[str, Any], require: Callable[[bool, str, str], None]) -> None:
    require(recipe["task"] == "brain_tumour", "task", "brain_tumour, whose images have four channels")
    require(recipe["amp_level"] != "bf16", "amp_level",
            "auto, O0, O2 or O3: only the V-Net's kernels store activations in bf16")
    problem = any(recipe["target_size"]) and unet3d_size_problem(recipe["target_size"])
    require(not problem, "target_size", f"zeros, or a size that the network can take: {problem}")


def unet3d_size_problem(size: Sequence[int]) -> str:
    """Return what is wrong with a size (X, Y, Z) for the 3-D U-Net; empty when it can take it."""
    x, y, z = size
    if min(x, y) >= 16 and x % 8 == 0 and y % 8 == 0 and z >= 7 and z % 4 == 3:
        return ""
    return (f"found {x} x {y} x {z}, expected X and Y in multiples of 8 from 16 on, and Z one less than a multiple of "
            "4 from 7 on, such as 240 x 240 x 155")
