"""From a checkpoint to a bundle that was proven to give the checkpoint's own answer.

What is exported, and what the golden output comes from, is the checkpoint's network on MindSpore's own operators in
fp32, since an exported graph has to run where the CPU kernels are not. Where the kernels are in use, the network that
they serve, which is the one that trains, evaluates and predicts there, has to agree with it too.
"""

import importlib.util
import logging
import os
import shutil
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from easydict import EasyDict
from mindspore import Tensor

from src.checkpoint import Checkpoint, load_parameters, network_name
from src.config import DEFAULT_RECIPE
from src.data import build_manager
from src.errors import UserError
from src.files import atomic_path, write_json
from src.inference import bundle as bundles
from src.inference import sliding_window
from src.inference.evaluate import require_finite
from src.inference.golden import GoldenInput, golden_input
from src.inference.model_files import write_model
from src.inference.postprocess import Postprocess
from src.inference.predictor import MindIRPredictor, NetworkPredictor, load_checkpoint_predictor
from src.networks import ForegroundProbability, build_network
from src.networks.export_form import any_size, exportable
from src.ops.select import kernels, stock_kernels, unit_options
from src.overrides import plain
from src.recipe_rules import is_2d
from src.report.html import package_versions

logger = logging.getLogger(__name__)

FORMATS = tuple(bundles.MODEL_NAMES)
# MINDIR keeps the network's own operators; ONNX has ELU in another form and other kernels.
TOLERANCES = {"MINDIR": 1e-5, "ONNX": 1e-4}
# Of the probability, on the CPU kernels, by the storage of activations; differences grow with the size of the logits.
KERNEL_TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2}
PREPROCESSING = ("dstRes", "VolSize", "normDir", "intensity_percentiles")
PICTURE_PREPROCESSING = ("task", "image_size", "classes")


def export_checkpoint(checkpoint_path: Path, name: str | None = None, formats: Sequence[str] = ("MINDIR",),
                      batch_size: int = 1, data_path: Path | None = None, device_target: str = "CPU",
                      changes: Mapping[str, Any] | None = None, dynamic_shape: bool = False) -> Path:
    """Write the bundle folder `NAME_bundle` and, for each format, `NAME.mindir` and so on beside it.

    Every model is loaded back and has to give the checkpoint's own answer to a real case before anything appears: the
    answer of its network on MindSpore's operators, with which the network on the CPU kernels has to agree, where they
    are in use.

    Args:
        checkpoint_path: of a trained network.
        name: path and stem of what is written; None: `vnet`, or `unet` of a U-Net's recipe, in the present folder.
        formats: of `FORMATS`.
        batch_size: of the exported input, which is fixed: (batch_size, 1, *VolSize), or of pictures
            (batch_size, channels, H, W).
        data_path: folder of the data set to take the real case from; the bundle then holds this image. None: the
            repository's public sample, or for pictures a generated one, so that no bundle holds a patient's image
            unasked.
        device_target: the device in use.
        changes: recipe keys to override.
        dynamic_shape: write also a MINDIR whose X, Y and Z may be any multiples of 16, `NAME_dynamic.mindir`; it is
            compared at a second size, too.

    Returns:
        The bundle folder.

    Raises:
        UserError: a format or a name that cannot be written here, no real case, a probability that is not finite,
            or a model or the CPU kernels do not agree. Nothing is left behind then, and an earlier bundle stays.
    """
    check_formats(formats, device_target, dynamic_shape)
    if name is not None:
        name = _checked_name(name, formats, dynamic_shape)
    if batch_size < 1:
        raise UserError(f"--batch_size is {batch_size}, expected 1 or more")
    with stock_kernels():  # an exported graph has to run where our kernels are not
        predictor, recipe, checkpoint = load_checkpoint_predictor(checkpoint_path, changes)
    if recipe["task"] == "brain_tumour":
        raise UserError(f"{checkpoint_path}: a checkpoint of task {recipe['task']}, and bundles hold no 3-D network "
                        "of several channels; predict with --ckpt_path")
    if name is None:
        name = _checked_name(network_name(checkpoint.state.get("recipe_name", DEFAULT_RECIPE)), formats, dynamic_shape)
    if dynamic_shape and is_2d(recipe):
        raise UserError(f"{checkpoint_path}: a checkpoint of task {recipe['task']}, whose pictures are always brought "
                        "to image_size; --dynamic_shape is for volumes, leave it out")
    golden = golden_input(checkpoint, recipe, build_manager(recipe), data_path)
    batch = np.repeat(golden.array[None], batch_size, axis=0)
    expected = predictor.predict_batch(batch)
    require_finite(expected, golden.case_id, predictor.path)
    kernel_entry = compare_kernels(checkpoint, recipe, batch, expected)
    target = Path(f"{name}_bundle")
    beside = links_beside(name, formats, dynamic_shape)
    stale = _stale_links(name, target, set(beside.values()))
    with bundles.atomic_folder(target) as folder:
        models = {kind: _export_model(predictor, batch, expected, kind, folder) for kind in dict.fromkeys(formats)}
        if dynamic_shape:
            models[bundles.DYNAMIC] = _export_dynamic(predictor, batch, expected, folder)
        for file_name, array in ((bundles.GOLDEN_INPUT, batch), (bundles.GOLDEN_OUTPUT, expected)):
            with atomic_path(folder / file_name) as temporary:
                np.save(temporary, array)
        write_json(folder / bundles.RECIPE_NAME, _describe(checkpoint, recipe, models, golden, kernel_entry))
        bundles.write_checksums(folder)
    for path in stale:
        path.unlink()
        logger.info("%s was of the bundle before, which had this format as well: removed", path)
    for kind, path in beside.items():
        _link(target / models[kind]["file"], path)
    return target


def compare_kernels(checkpoint: Checkpoint, recipe: Mapping[str, Any], batch: np.ndarray,
                    expected: np.ndarray) -> dict[str, Any] | None:
    """Compare the checkpoint's network on the CPU kernels with its network on MindSpore's operators.

    Args:
        checkpoint: the network's parameters.
        recipe: of the network; `amp_level` and `conv_algorithm` choose how the kernels compute.
        batch: the golden case (N, 1, X, Y, Z), or (N, channels, H, W).
        expected: probability of the network on MindSpore's operators, (N, X, Y, Z), (N, C, X, Y, Z) or (N, H, W).

    Returns:
        For `recipe.json`: `max_difference` of the probability, `voxels_changed`, whose side of the threshold, or
        class, is another, `storage` of activations and `conv_algorithm`. None where the kernels are not in use.

    Raises:
        UserError: the kernels' answer is not finite or, with fp32 storage, differs by more than `KERNEL_TOLERANCES`.
            With bf16, which rounds by its nature, that is a warning.
    """
    library = kernels()
    if library is None:
        return None
    algorithm = recipe.get("conv_algorithm", "auto")
    if algorithm == "direct" and not library.has_onednn:
        logger.warning("the network on the CPU kernels was not compared: conv_algorithm is direct, and oneDNN is not "
                       "there (%s)", library.onednn_problem)
        return None
    network = build_network(recipe)
    load_parameters(checkpoint, network)
    found = NetworkPredictor(network, checkpoint.path).predict_batch(batch)
    # Without blocked volumes there are no units, and what is left of the kernels stores fp32.
    storage = unit_options().storage if library.has_blocked and not is_2d(recipe) else "float32"
    difference, bound = bundles.max_difference(found, expected), KERNEL_TOLERANCES[storage]
    masks = _masks(expected)
    changed = int(np.count_nonzero(_masks(found) != masks))
    finding = (f"the network on the CPU kernels ({storage}), which trains and predicts here, and the one that is "
               f"exported differ by {difference:.3g} in the probability, expected at most {bound:g}; {changed} of "
               f"{masks.size} voxels change sides")
    if not np.isfinite(difference) or storage == "float32" and not difference <= bound:
        raise UserError(f"checkpoint {checkpoint.path}: {finding}, and nothing was written. With VNET_CPU_ISA=baseline "
                        "in the environment eval.py and export.py do without these kernels: export so if the scores "
                        "are as good. Please report this with the recipe and the versions in use")
    if not difference <= bound:
        logger.warning("%s. The exported model computes in fp32: evaluate it with eval.py --set amp_level=O0", finding)
    else:
        logger.info("CPU kernels (%s) agree with MindSpore's operators, which are exported: largest difference of the "
                    "probability %.3g (at most %g), %d of %d voxels change sides", storage, difference, bound, changed,
                    masks.size)
    return {"max_difference": difference, "voxels_changed": changed, "storage": storage,
            "conv_algorithm": algorithm}


def _checked_name(name: str, formats: Sequence[str], dynamic_shape: bool) -> str:
    """Return `name` without the suffix that people add by habit, after a look at the places of the models."""
    path = Path(name)
    if path.suffix.lower().lstrip(".") in {kind.lower() for kind in FORMATS}:
        path = path.with_suffix("")
    if not path.name or path.is_dir() and str(name).endswith("/"):
        raise UserError(f"--file_name {name!r}: expected a path and stem such as vnet or out/vnet")
    for beside in links_beside(str(path), formats, dynamic_shape).values():
        if beside.is_dir():
            raise UserError(f"{beside}: is a folder, expected a place for the model; choose another --file_name")
    return str(path)


def links_beside(name: str, formats: Sequence[str], dynamic_shape: bool = False) -> dict[str, Path]:
    """Return where each model lies beside the bundle `NAME_bundle`, by its key in `recipe.json`."""
    links = {kind: Path(f"{name}.{kind.lower()}") for kind in dict.fromkeys(formats)}
    return {**links, **({bundles.DYNAMIC: Path(f"{name}_dynamic.mindir")} if dynamic_shape else {})}


def check_formats(formats: Sequence[str], device_target: str, dynamic_shape: bool = False) -> None:
    """Check that every format can be written here.

    Raises:
        UserError: an unknown format, AIR on another device than Ascend, a package that ONNX needs is missing, or a
            dynamic shape without MINDIR.
    """
    if dynamic_shape and "MINDIR" not in formats:
        raise UserError(f"--dynamic_shape 1 with --file_format {' '.join(formats)}: only MINDIR can have axes of any "
                        "size, MindSpore fixes them in ONNX and AIR; add MINDIR to --file_format")
    for kind in formats:
        if kind not in FORMATS:
            raise UserError(f"unknown export format {kind!r}: expected one of {', '.join(FORMATS)}")
        if kind == "AIR" and device_target != "Ascend":
            raise UserError(f"AIR can be exported on Ascend only, and the device target is {device_target}; "
                            "use --file_format MINDIR, which runs on every device")
        for package in ("onnx", "onnxruntime") if kind == "ONNX" else ():
            if importlib.util.find_spec(package) is None:
                raise UserError(f"ONNX export needs the package {package}: pip install onnx onnxruntime, "
                                "or use --file_format MINDIR")


def _export_model(predictor: NetworkPredictor, batch: np.ndarray, expected: np.ndarray, kind: str,
                  folder: Path) -> dict[str, Any]:
    """Write one model into `folder`, compare it, and return its entry in `recipe.json`."""
    path = folder / bundles.MODEL_NAMES[kind]
    cell = predictor.cell if kind != "ONNX" else ForegroundProbability(exportable(predictor.network))
    write_model(cell, Tensor(batch), kind, path)
    axes = "NCHW" if batch.ndim == 4 else "NCXYZ"
    entry: dict[str, Any] = {
        "file": path.name,
        "input": {"name": "", "shape": list(batch.shape), "layout": axes, "dtype": "float32"},
        "output": {"name": "", "shape": list(expected.shape),
                   "layout": axes if expected.ndim == batch.ndim else axes.replace("C", ""), "dtype": "float32"},
        "max_difference": None,
    }
    if kind not in bundles.RUNNERS:
        logger.warning("%s was not compared with the checkpoint: MindSpore cannot load it back", kind)
        return entry
    model = bundles.RUNNERS[kind](path, batch.shape)
    difference = _agreement(model, kind, batch, expected)
    entry["input"]["name"], entry["output"]["name"] = model.names()
    return {**entry, "max_difference": difference}


def _export_dynamic(predictor: NetworkPredictor, batch: np.ndarray, expected: np.ndarray,
                    folder: Path) -> dict[str, Any]:
    """Write the MINDIR of any size into `folder`, compare it at two sizes, and return its entry in `recipe.json`."""
    path = folder / bundles.DYNAMIC_NAME
    shape = [*batch.shape[:2], -1, -1, -1]
    write_model(ForegroundProbability(any_size(predictor.network)),
                 Tensor(shape=[size if size > 0 else None for size in shape], dtype=ms.float32), "MINDIR", path)
    model = MindIRPredictor(path, shape)
    other = other_size(batch)
    difference = max(_agreement(model, "MINDIR", given, answer)
                     for given, answer in ((batch, expected), (other, predictor.predict_batch(other))))
    first, last = model.names()
    layout = "NCXYZ" if expected.ndim == batch.ndim else "NXYZ"
    return {
        "file": path.name,
        "input": {"name": first, "shape": shape, "layout": "NCXYZ", "dtype": "float32", "multiple_of": 16},
        "output": {"name": last, "shape": [*expected.shape[:-3], -1, -1, -1], "layout": layout, "dtype": "float32"},
        "max_difference": difference,
        "compared_at": [list(batch.shape), list(other.shape)],
    }


def other_size(batch: np.ndarray) -> np.ndarray:
    """Return blocks (N, 1, X', Y', Z') of another size than those given (N, 1, X, Y, Z), on every axis.

    X' is X + 16; Y' and Z' are half of Y and Z in multiples of 16, or 32 in place of 16. Made of the blocks themselves:
    cut off at the end, or mirrored at it.
    """
    x, *others = batch.shape[2:]
    sizes = [x + 16, *(32 if size == 16 else size // 32 * 16 for size in others)]
    margins = [(0, 0), (0, 0), *((0, max(wanted - size, 0)) for wanted, size in zip(sizes, (x, *others), strict=True))]
    padded = np.pad(batch, margins, "symmetric")
    return np.ascontiguousarray(padded[:, :, :sizes[0], :sizes[1], :sizes[2]])


def _agreement(model: bundles.ExportedPredictor, kind: str, batch: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of a model's answer from the checkpoint's own, with a line in the log.

    Raises:
        UserError: it is above `TOLERANCES`.
    """
    difference = bundles.max_difference(model.predict_batch(batch), expected)
    if not difference <= TOLERANCES[kind]:
        raise UserError(f"{kind} export of the checkpoint: its answer to the golden case differs by {difference:.3g} "
                        f"from the checkpoint's own, expected at most {TOLERANCES[kind]:g}; nothing was written. "
                        "Please report this with the recipe and the versions in use")
    logger.info("%s agrees with the checkpoint%s: largest difference of the probability %.3g (at most %g)", kind,
                f" at {' x '.join(map(str, batch.shape))}, its axes of any size" if -1 in model.shape else "",
                difference, TOLERANCES[kind])
    return difference


def _describe(checkpoint: Checkpoint, recipe: EasyDict, models: dict[str, Any], golden: GoldenInput,
              kernel_entry: dict[str, Any] | None) -> dict[str, Any]:
    state = checkpoint.state
    post = Postprocess.from_recipe(recipe)
    several, windows, mirrors = recipe["classes"] > 2, recipe.get("patches", False), recipe["tta"]
    looks = recipe.get("zoom_ml", 0.0) > 0
    if is_2d(recipe):
        version, preprocessing = 3, list(PICTURE_PREPROCESSING)
    else:
        version = 5 if post.opening else 4 if looks else 2 if several or windows or mirrors != "none" else 1
        preprocessing = [*PREPROCESSING, *(["classes", "patches"] if several or windows else []),
                         *(["zoom_ml"] if looks else [])]
    return {
        "format": bundles.FORMAT,
        "format_version": version,
        "models": models,
        "preprocessing": plain({key: recipe[key] for key in preprocessing}),
        "postprocessing": {**({"mirrors": mirrors} if mirrors != "none" else {}),
                           **({"argmax": True} if several else {"threshold": post.threshold}),
                           **({"opening": post.opening} if post.opening else {}),
                           "largest_component": post.largest_component, "connectivity": "faces"},
        **({"window": sliding_window.describe(recipe["VolSize"], recipe["window_overlap"])} if windows else {}),
        "golden": {"case_id": golden.case_id, "source": golden.source, "input": bundles.GOLDEN_INPUT,
                   "output": bundles.GOLDEN_OUTPUT, "computed_by": "MindSpore's operators, float32",
                   "cpu_kernels": kernel_entry},
        "checkpoint": {"file": checkpoint.path.name, "sha256": bundles.file_sha256(checkpoint.path),
                       "epoch": state.get("epoch"), "step": state.get("step"), "best_dice": state.get("best_dice")},
        "recipe_name": state.get("recipe_name"),
        "recipe": plain(recipe),
        "versions": package_versions(),
    }


def _masks(probability: np.ndarray) -> np.ndarray:
    """Return the masks (N, X, Y, Z), or (N, H, W), of a batch of probabilities, all components kept."""
    return np.stack([Postprocess(largest_component=False).mask(one) for one in probability])


def _stale_links(name: str, bundle: Path, kept: Set[Path]) -> list[Path]:
    """Return the models beside a bundle about to be replaced that are its own, but for those that get a successor."""
    files = {**bundles.MODEL_NAMES, bundles.DYNAMIC: bundles.DYNAMIC_NAME}
    return [path for kind, path in links_beside(name, FORMATS, dynamic_shape=True).items()
            if path not in kept and path.is_file() and (bundle / files[kind]).is_file()
            and bundles.file_sha256(path) == bundles.file_sha256(bundle / files[kind])]


def _link(source: Path, target: Path) -> None:
    """Put the model also where people expect it: a hard link, or a copy where the file system has none."""
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
