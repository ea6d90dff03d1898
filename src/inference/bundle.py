"""The bundle: a folder with all that a program needs to run a trained network, sealed with checksums.

    model.mindir, model.onnx, model.air   one or more; probability out
    model_dynamic.mindir                  where it was asked for: the same, of volumes of any size in multiples of 16
    recipe.json                           preprocessing, inputs and outputs, postprocessing, origin
    golden_input.npy, golden_output.npy   a golden case (N, 1, X, Y, Z), and the checkpoint's own answer
    checksums.json                        SHA-256 of every other file

The model's answer is the probability of the foreground (N, X, Y, Z), or of C > 2 classes that of each (N, C, X, Y, Z).
Of a recipe with `patches` the model takes one window of VolSize voxels, and `recipe.json` says how windows are blended.
Of one with `tta` its `postprocessing` has `mirrors`, the axes: the answer to a block is the mean over its 2^k mirrored
copies, each mirrored back.
Of one with `zoom_ml` its `preprocessing` has it: the model is asked twice more, at the foreground of the answer before,
and the three answers are averaged on the volume's own grid; see src/data/zoom.py.
Of one with `opening` its `postprocessing` has it: the mask's largest component is opened slice by slice, and of that
the largest component is kept, see src/inference/postprocess.py.
A model of pictures takes (N, channels, H, W), slices one by one, and answers (N, H, W). Its `preprocessing` names the
`task`, whose module in src/data says what happens to intensities and size. Without a data folder to take a case from,
its golden case is a generated picture, and `recipe.json` says so.

The golden output is that of the checkpoint's network on MindSpore's operators in fp32. How far the network on the CPU
kernels was from it, where they were in use, is in `recipe.json` under golden, cpu_kernels (see export.py).
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from easydict import EasyDict

from src.data import build_manager
from src.data.data_manager import DataManager
from src.errors import UserError
from src.files import write_text
from src.inference.output import make_folder
from src.inference.postprocess import Postprocess
from src.inference.predictor import ExportedPredictor, MindIRPredictor, OnnxPredictor

logger = logging.getLogger(__name__)

FORMAT = "vnet-bundle"
# 1: two classes, and the model takes the whole of what preprocessing gives, once. 2: more classes, windows, or mirrored
# copies. 3: pictures. 4: further looks. 5: opening. Programs that know the earlier ones alone would read the others
# wrongly.
FORMAT_VERSIONS = (1, 2, 3, 4, 5)
RECIPE_NAME = "recipe.json"
CHECKSUMS_NAME = "checksums.json"
GOLDEN_INPUT = "golden_input.npy"
GOLDEN_OUTPUT = "golden_output.npy"
MODEL_NAMES = {"MINDIR": "model.mindir", "ONNX": "model.onnx", "AIR": "model.air"}
# A MINDIR for volumes of any size in multiples of 16, beside that of VolSize; axes of any size are -1 in its shapes.
DYNAMIC = "MINDIR_DYNAMIC"
DYNAMIC_NAME = "model_dynamic.mindir"
# In order of preference, see `load_bundle_predictor`; AIR is for Ascend's own tools.
RUNNERS: dict[str, type[ExportedPredictor]] = {"MINDIR": MindIRPredictor, "ONNX": OnnxPredictor}

# Devices that compute in fp16 differ from the fp32 golden output by a few thousandths; a broken model by far more.
GOLDEN_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were verified.

    Attributes:
        folder: where it lies.
        content: of `recipe.json`.
    """

    folder: Path
    content: dict[str, Any]

    @property
    def formats(self) -> list[str]:
        """Keys of `MODEL_NAMES`, and `DYNAMIC`, that the bundle has a model of."""
        return list(self.content["models"])

    @property
    def manager(self) -> DataManager:
        """The preprocessing that the network was trained with."""
        found = EasyDict(self.content["preprocessing"])
        return build_manager(found) if "task" in found else DataManager.from_config(found)

    @property
    def postprocess(self) -> Postprocess:
        return Postprocess.from_recipe(self.content["postprocessing"])

    @property
    def mirrors(self) -> str:
        """Axes whose mirrored copies are predicted as well and averaged, such as `xy`, or `none`."""
        return self.content["postprocessing"].get("mirrors", "none")

    def golden(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the golden case (N, 1, X, Y, Z), or (N, channels, H, W), and the checkpoint's probability, float32.

        The probability comes from the network on MindSpore's operators, not from the CPU kernels.
        """
        return np.load(self.folder / GOLDEN_INPUT), np.load(self.folder / GOLDEN_OUTPUT)


def write_checksums(folder: Path) -> None:
    """Write `checksums.json` for all other files of `folder`."""
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.name != CHECKSUMS_NAME}
    write_text(folder / CHECKSUMS_NAME, _checksum_text(files))


def read_bundle(path: Path) -> Bundle:
    """Read a bundle and verify every byte of it.

    Raises:
        UserError: no bundle, one of another version, or a file is missing or changed; names every such file.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"bundle {folder}: no such folder; expected one that export.py wrote")
    files = _read_checksums(folder)
    required = {RECIPE_NAME, GOLDEN_INPUT, GOLDEN_OUTPUT}
    problems = [f"{name} is not listed in {CHECKSUMS_NAME}" for name in sorted(required - set(files))]
    for name, expected in files.items():
        if not (folder / name).is_file():
            problems.append(f"{name} is missing")
        elif (found := file_sha256(folder / name)) != expected:
            problems.append(f"{name} was changed (SHA-256 {found[:12]}…, expected {expected[:12]}…)")
    if problems:
        raise UserError(f"bundle {folder}: {'; '.join(problems)}. Copy the bundle again, or export it anew")
    content = json.loads((folder / RECIPE_NAME).read_text(encoding="utf-8"))
    if content.get("format") != FORMAT or content.get("format_version") not in FORMAT_VERSIONS:
        raise UserError(f"bundle {folder}: format {content.get('format')!r} version {content.get('format_version')!r},"
                        f" expected {FORMAT!r} version {' or '.join(map(str, FORMAT_VERSIONS))}; export it with this "
                        "version of the program")
    return Bundle(folder, content)


def load_bundle_predictor(path: Path) -> tuple[ExportedPredictor, Bundle]:
    """Load a verified bundle's model: the MINDIR where there is one, else the ONNX.

    On a CPU the ONNX comes first: MindSpore's own operators are slow there (docs/cpu_backend.md).

    Raises:
        UserError: as `read_bundle`; or this program can run none of its models.
    """
    bundle = read_bundle(path)
    on_cpu = ms.get_context("device_target") == "CPU" and find_spec("onnxruntime") is not None
    for kind in reversed(RUNNERS) if on_cpu else RUNNERS:
        if kind in bundle.formats:
            model = bundle.content["models"][kind]
            logger.info("bundle %s: running %s", bundle.folder, model["file"])
            return RUNNERS[kind](bundle.folder / model["file"], model["input"]["shape"]), bundle
    raise UserError(f"bundle {bundle.folder}: has {', '.join(bundle.formats)} only, and predicting here needs "
                    f"{' or '.join(RUNNERS)}; export it with --file_format {' or '.join(RUNNERS)}")


def check_golden(predictor: ExportedPredictor, bundle: Bundle) -> float:
    """Run the bundle's golden case on its exported model and return the largest difference from its golden output.

    Both compute with the operators of the export; the CPU kernels play no part.

    Raises:
        UserError: the difference is above `GOLDEN_TOLERANCE`.
    """
    batch, expected = bundle.golden()
    difference = max_difference(predictor.predict_batch(batch), expected)
    if not difference <= GOLDEN_TOLERANCE:
        raise UserError(f"bundle {bundle.folder}: this machine's answer to {GOLDEN_INPUT} differs by {difference:.3g} "
                        f"from {GOLDEN_OUTPUT}, expected at most {GOLDEN_TOLERANCE:g}; its predictions cannot be "
                        "trusted. Export again here, or install the versions named in recipe.json")
    return difference


def max_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Return the largest absolute difference; infinity where shapes differ or a value is not finite."""
    if first.shape != second.shape or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return float("inf")
    return float(np.abs(first.astype(np.float64) - second).max())


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_folder(target: Path, option: str = "--file_name", kind: str = "bundle",
                  is_kind: Callable[[Path], bool] = lambda folder: (folder / CHECKSUMS_NAME).is_file(),
                  ) -> Iterator[Path]:
    """Yield an empty folder beside `target`; on success it takes the place of `target`, one of its kind or nothing.

    On an exception it is removed, and `target` stays as it was.

    Args:
        target: the folder, a bundle unless said otherwise.
        option: of the command line, which chose it.
        kind: what it is, in words.
        is_kind: whether a folder that is there and not empty is of this kind, and so replaced.

    Raises:
        UserError: `target` is something else, or the folder it belongs in cannot be made or written to.
    """
    make_folder(target.parent, f"{option}: folder")
    # A link is left alone as well: what it leads to may be what others rely on.
    if os.path.lexists(target) and not _replaceable(target, is_kind):
        raise UserError(f"{target}: is there and is no {kind}, so it is not replaced; choose another {option}")
    building = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    replaced = target.with_name(f".{target.name}.{os.getpid()}.old")
    building.mkdir()
    try:
        yield building
        if target.exists():
            target.rename(replaced)
        try:
            building.rename(target)
        except OSError:
            if replaced.exists():
                replaced.rename(target)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _replaceable(target: Path, is_kind: Callable[[Path], bool]) -> bool:
    if target.is_symlink() or not target.is_dir():
        return False
    return is_kind(target) or not any(target.iterdir())


def _checksum_text(files: dict[str, str]) -> str:
    listed = json.dumps(files, sort_keys=True)
    return json.dumps({"files": files, "sha256": hashlib.sha256(listed.encode()).hexdigest()}, indent=2) + "\n"


def _read_checksums(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS_NAME
    remedy = "Copy the bundle again, or export it anew"
    if not path.is_file():
        raise UserError(f"bundle {folder}: {CHECKSUMS_NAME} is missing, so this is no whole bundle. {remedy}")
    text = path.read_bytes()
    try:
        files = dict(json.loads(text)["files"])
        # Also the list itself is verified: it holds its own digest and has one way only to be written.
        whole = text == _checksum_text(files).encode()
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"bundle {folder}: {CHECKSUMS_NAME} was changed. {remedy}")
    return files
