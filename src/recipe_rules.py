"""What the values of a recipe have to be, beyond their types."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from src.errors import UserError
from src.lr_schedule import SCALING_RULES

SLICE_TASKS = ("lgg", "drive", "em")  # whose networks see pictures (N, C, H, W)
UNET3D_BLOCKS = 13  # of the 3-D U-Net, between any two of which a pipeline can cut it

_AXES = ("none", "x", "y", "z", "xy", "xz", "yz", "xyz")
_CHOICES: dict[str, tuple[str, ...]] = {
    "variant": ("default", "paper"),
    "activation": ("auto", "elu", "prelu"),
    "norm": ("batch", "instance"),
    "loss": ("dice", "dice_ce", "dice_focal", "tversky", "focal", "bce", "iou", "bce_dice"),
    "dice_over": ("sample", "batch"),
    "mirror_axes": _AXES,
    "tta": _AXES,
    "scoring": ("none", "promise12", "patients", "pixels", "rand"),
    "slice_sampling": ("uniform", "mask"),
    "architecture": ("unet", "attention_unet", "resnet34_unet", "unetpp"),
    "upsampling": ("transposed", "bilinear"),
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
_SHARES = ("foreground_share", "aug_deform", "aug_histogram", "aug_rotate", "aug_scale", "aug_stretch",
           "aug_shift", "aug_mirror", "aug_noise", "aug_blur", "aug_brightness", "aug_contrast", "aug_gamma",
           "aug_low_resolution", "aug_bias")
_POSITIVE = ("folds", "base_channels", "batch_size", "epochs", "save_every", "keep_checkpoint_max", "loss_scale",
             "micro_batches", "patches_per_case")
_NOT_NEGATIVE = ("dropout", "lr", "lr_ascend", "weight_decay", "momentum", "warmup_step", "warmup_ratio",
                 "grad_clip", "val_every", "early_stopping", "seed", "log_every", "fold_seed", "focal_gamma",
                 "tversky_alpha", "tversky_beta", "ema_decay", "window_overlap", "zoom_ml")


def is_2d(recipe: Mapping[str, Any]) -> bool:
    """Return whether a recipe's network sees pictures in place of volumes."""
    return "image_size" in recipe


def nearest(name: str, known: Iterable[str]) -> str:
    lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.7)
    return f", did you mean {lower[close[0]]!r}?" if close else ""


def check_ranges(recipe: Mapping[str, Any]) -> None:
    """Check the values of a recipe whose keys and types are right.

    Raises:
        UserError: a value is out of its range, or does not go with another.
    """
    def require(condition: bool, key: str, expected: str) -> None:
        if not condition:
            raise UserError(f"recipe key {key!r}: found {recipe[key]!r}, expected {expected}")

    for key in set(_CHOICES) & set(recipe):
        near = nearest(str(recipe[key]), _CHOICES[key])
        require(recipe[key] in _CHOICES[key], key, f"one of {', '.join(_CHOICES[key])}{near}")
    for key in set(_POSITIVE) & set(recipe):
        require(recipe[key] > 0, key, "a number above 0")
    for key in set(_NOT_NEGATIVE) & set(recipe):
        require(recipe[key] >= 0, key, "a number of 0 or more")
    require(0 < recipe.get("threshold", 0.5) < 1, "threshold", "a probability between 0 and 1")
    require(recipe["momentum"] < 1, "momentum", "a number below 1")
    require(recipe["warmup_ratio"] <= 1, "warmup_ratio", "a share of the base rate, at most 1")
    require(-1 <= recipe["fold"] < recipe["folds"], "fold", f"-1, or 0 to folds - 1 = {recipe['folds'] - 1}")
    if "target_size" in recipe:
        _check_unet3d(recipe, require)
    elif is_2d(recipe):
        _check_unet2d(recipe, require)
    else:
        _check_vnet(recipe, require)


def _check_vnet(recipe: Mapping[str, Any], require: Callable[[bool, str, str], None]) -> None:
    require(recipe["task"] != "brain_tumour", "task", "a data set of one channel; this one has --recipe unet3d_brain")
    require(recipe["task"] not in SLICE_TASKS, "task", f"volumes; this one has --recipe unet2d_{recipe['task']}")
    require(recipe["scoring"] in ("none", "promise12"), "scoring", "none or promise12; the others are of pictures")
    require(recipe["norm"] == "batch" or recipe["variant"] == "default", "norm",
            "batch with variant 'paper', which has no norm to change")
    require(recipe["dropout"] < 1, "dropout", "a probability below 1")
    require(2 <= recipe["classes"] <= 16, "classes", "2 to 16, background included")
    require(recipe["ema_decay"] < 1, "ema_decay", "a number below 1")
    require(recipe["window_overlap"] < 1, "window_overlap", "a share below 1")
    for key in _SHARES:
        require(0 <= recipe[key] <= 1, key, "a number from 0 to 1")
    require(0 <= recipe["aug_scale_range"] <= 0.5, "aug_scale_range", "a number from 0 to 0.5")
    require(not (recipe["zoom_ml"] and recipe["patches"]), "zoom_ml",
            "0 with patches=true: a window that slides over the whole volume has no second look")
    require(not any(recipe["aug_spacing"]) or min(recipe["aug_spacing"]) > 0, "aug_spacing",
            "spacings above 0 mm, or zeros")
    require(recipe["threshold"] == 0.5 or recipe["classes"] == 2, "threshold",
            "0.5 with more than two classes: the most probable one is taken, whatever its probability")
    require(0 <= recipe["opening"] < 1, "opening", "a number from 0 to below 1")
    require(recipe["out_kernel"] in (1, 3), "out_kernel", "1 or 3")
    require(all(value > 0 for value in recipe["dstRes"]), "dstRes", "spacings above 0 mm")
    low, high = recipe["intensity_percentiles"]
    require(0 <= low < high <= 100, "intensity_percentiles", "two rising percentiles between 0 and 100")
    # Four halvings in the network; a block that does not divide would come back smaller than it went in.
    require(all(n > 0 and n % 16 == 0 for n in recipe["VolSize"]), "VolSize", "multiples of 16")
    block_ml = math.prod(map(math.prod, zip(recipe["VolSize"], recipe["dstRes"], strict=True))) / 1000
    require(recipe["zoom_ml"] < block_ml, "zoom_ml", f"less than the {block_ml:g} ml of a block, in which the "
            "foreground is to lie")
    # Batch norm at the bottom, 16 times smaller, needs two values a channel: of one, the variance is not defined
    # (MindSpore's moving variance becomes NaN).
    bottom = recipe["batch_size"] * math.prod(n // 16 for n in recipe["VolSize"])
    require(not recipe["sync_bn"] or recipe["norm"] == "batch", "sync_bn", "false with norm 'instance'")
    batch_norm = recipe["variant"] == "default" and recipe["norm"] == "batch"
    require(not batch_norm or bottom > 1, "batch_size",
            f"at least 2 with variant 'default', norm 'batch' and VolSize {recipe['VolSize']}, or a larger VolSize")


def _check_unet3d(recipe: Mapping[str, Any], require: Callable[[bool, str, str], None]) -> None:
    require(recipe["task"] == "brain_tumour", "task", "brain_tumour, whose images have four channels")
    require(recipe["amp_level"] != "bf16", "amp_level",
            "auto, O0, O2 or O3: only the V-Net's kernels store activations in bf16")
    problem = any(recipe["target_size"]) and unet3d_size_problem(recipe["target_size"])
    require(not problem, "target_size", f"zeros, or a size that the network can take: {problem}")


def _check_unet2d(recipe: Mapping[str, Any], require: Callable[[bool, str, str], None]) -> None:
    require(recipe["task"] in SLICE_TASKS, "task", f"one of {', '.join(SLICE_TASKS)}, which are made of pictures")
    require(recipe["classes"] == 2, "classes", "2: these recipes tell one foreground from the background")
    require(recipe["output_channels"] in (1, 2), "output_channels", "1 or 2")
    require(all(n > 0 and n % 16 == 0 for n in recipe["image_size"]), "image_size", "multiples of 16")
    require(recipe["architecture"] != "resnet34_unet" or all(n % 32 == 0 for n in recipe["image_size"]), "image_size",
            "multiples of 32 with architecture 'resnet34_unet'")
    halved = 32 if recipe["architecture"] == "resnet34_unet" else 16
    # As for the V-Net: batch norm at the bottom needs two values a channel.
    require(recipe["batch_size"] * math.prod(n // halved for n in recipe["image_size"]) > 1, "batch_size",
            f"at least 2 with image_size {recipe['image_size']}, or a larger image_size")
    require(recipe["dropout"] < 1, "dropout", "a probability below 1")
    require(recipe["ema_decay"] < 1, "ema_decay", "a number below 1")
    for key in ("aug_flip_x", "aug_flip_y", "bce_weight"):
        require(0 <= recipe[key] <= 1, key, "a number from 0 to 1")
    for key, most in (("aug_scale_range", 0.5), ("aug_rotation", 180), ("aug_elastic", 0.1), ("aug_intensity", 0.5)):
        require(0 <= recipe[key] <= most, key, f"a number from 0 to {most:g}")
    require(set(recipe["tta"]) <= set("xy") or recipe["tta"] == "none", "tta", "none, x, y or xy: a picture has no z")
    require(recipe["scoring"] != "promise12", "scoring", "none, patients, pixels or rand")
    require(recipe["amp_level"] != "bf16", "amp_level", "auto, O0, O2 or O3")


def unet3d_size_problem(size: Sequence[int]) -> str:
    """Return what is wrong with a size (X, Y, Z) for the 3-D U-Net; empty when it can take it."""
    x, y, z = size
    if min(x, y) >= 16 and x % 8 == 0 and y % 8 == 0 and z >= 7 and z % 4 == 3:
        return ""
    return (f"found {x} x {y} x {z}, expected X and Y in multiples of 8 from 16 on, and Z one less than a multiple of "
            "4 from 7 on, such as 240 x 240 x 155")
