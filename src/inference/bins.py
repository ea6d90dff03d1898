"""Cases as plain files, for a program that knows no Python: the network's input out, the model's answer back in.

    preprocess_Result/CASE.bin      the network's input (1, 1, X, Y, Z)
    preprocess_Result/cases.json    what the bins are of: sources, SHA-256 sums, the recipe, the model's origin
    result_Files/CASE_0.bin         the model's answer (1, X, Y, Z), or of C > 2 classes (1, C, X, Y, Z)

Both kinds of bins are float32, little-endian, in C order, without a header.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from easydict import EasyDict

from src.checkpoint import Checkpoint
from src.config import DEFAULT_RECIPE, RECIPES
from src.data import Case, build_manager, get_task
from src.data.layout import all_found
from src.data.split import read_split
from src.errors import DataError, UserError
from src.files import atomic_path, write_json
from src.inference.bundle import atomic_folder, file_sha256, read_bundle
from src.inference.evaluate import load_native
from src.inference.output import OutputFolders, evaluate_split
from src.overrides import apply_overrides, plain
from src.recipe_rules import is_2d

logger = logging.getLogger(__name__)

FORMAT = "vnet-bins"
FORMAT_VERSION = 1
CASES_NAME = "cases.json"
SUFFIX = ".bin"
RESULT_ENDING = "_0"  # the model's first output
FLOAT = np.dtype("<f4")

# Of z-scored intensities: another machine may round in another way, and other data or settings differ by far more.
SAME_BLOCK = 1e-4
# Beyond 0 and 1, for devices that compute in fp16; logits go much further.
PROBABILITY_SLACK = 1e-3


@dataclass(frozen=True)
class BinCase:
    """A case that was written.

    Attributes:
        case_id: its name.
        source: the image's file.
        sha256: of the bin.
    """

    case_id: str
    source: str
    sha256: str

    @property
    def name(self) -> str:
        """File name of the bin."""
        return self.case_id + SUFFIX

    @property
    def result_name(self) -> str:
        """File name of the model's answer."""
        return self.case_id + RESULT_ENDING + SUFFIX


@dataclass(frozen=True)
class CaseList:
    """What `cases.json` says.

    Attributes:
        folder: where it lies, with the bins.
        recipe: what the bins were made by, and the answers are read by.
        model: `bundle`, `checkpoint` and `epoch` of the model that they are meant for; empty where not known.
        cases: by case id.
    """

    folder: Path
    recipe: EasyDict
    model: dict[str, Any]
    cases: dict[str, BinCase]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(1, 1, X, Y, Z) of each bin."""
        return (1, 1, *self.recipe["VolSize"])

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(1, X, Y, Z), or (1, C, X, Y, Z) for C > 2 classes, of each answer."""
        classes = self.recipe["classes"]
        return (1, *([classes] if classes > 2 else []), *self.recipe["VolSize"])


def recipe_of_bundle(path: Path) -> tuple[EasyDict, str, dict[str, Any]]:
    """Return recipe, its name, and where the model comes from, of a verified bundle, for `write_bins`.

    Raises:
        UserError: as `read_bundle`; or one case does not go through its model as one block, see `check_one_block`.
    """
    bundle = read_bundle(path)
    content = bundle.content
    name = content["recipe_name"] or DEFAULT_RECIPE
    if name not in RECIPES:
        raise UserError(f"bundle {bundle.folder}: recipe {name!r} is unknown here; known: {', '.join(RECIPES)}. Use "
                        "the version of this program that exported it")
    recipe = apply_overrides(RECIPES[name], content["recipe"])
    check_one_block({**recipe, "tta": bundle.mirrors}, f"bundle {bundle.folder}")
    for kind, model in content["models"].items():
        if (batch := model["input"]["shape"][0]) != 1:
            raise UserError(f"bundle {bundle.folder}: its {kind} takes {batch} cases at once, expected 1; export the "
                            "checkpoint again with --batch_size 1")
    checkpoint = content["checkpoint"]
    return recipe, name, {"bundle": bundle.folder.resolve().name, "checkpoint": checkpoint["file"],
                          "epoch": checkpoint["epoch"]}


def check_one_block(recipe: Mapping[str, Any], origin: str) -> None:
    """Check that each case is one block of one channel, answered once: what a bin holds.

    Args:
        recipe: of the network.
        origin: what to name in messages, such as the bundle.

    Raises:
        UserError: pictures, several channels, windows, mirrored copies, or further looks.
    """
    found = ""
    if is_2d(recipe):
        found = "has pictures, slices of a case one by one"
    elif recipe["task"] == "brain_tumour":
        found = "has volumes of several channels"
    elif recipe["patches"]:
        found = "has patches=true, so that a window slides over the whole volume"
    elif recipe["tta"] != "none":
        found = f"has tta={recipe['tta']}, the mean over mirrored copies"
    elif recipe["zoom_ml"]:
        found = f"has zoom_ml={recipe['zoom_ml']:g}, further looks at what the first one finds"
    if found:
        raise UserError(f"{origin}: {found}, and a bin holds one block of one channel a case, answered once; predict "
                        "with predict.py, or evaluate with eval.py")


def write_bins(recipe: EasyDict, recipe_name: str, data_path: Path, split_path: Path, output: Path,
               model: Mapping[str, Any] | None = None) -> CaseList:
    """Write the network's input of every case of a split, and `cases.json`.

    The folder appears whole, in place of an earlier one of this function; on an error the earlier one stays.

    Args:
        recipe: task and preprocessing; for the answers also postprocessing and scoring.
        recipe_name: its key in `RECIPES`.
        data_path: folder of the data set, ground truth included, which the answers will be scored with.
        split_path: one image file name a line.
        output: the folder.
        model: see `CaseList`.

    Raises:
        UserError: the recipe is not of one block a case, the split is wrong, or `output` holds something else.
        DataError: every problem of the data.
    """
    check_one_block(recipe, f"recipe {recipe_name}")
    manager = build_manager(recipe)
    names = read_split(split_path)
    target = output.absolute() if output.is_symlink() else output.resolve()  # a link is refused, not followed
    if Path.cwd().is_relative_to(target):
        raise UserError(f"--output_dir {output}: holds the present folder, and would be replaced; choose another")
    cases, problems = get_task(recipe["task"]).scan_cases(data_path, names, classes=manager.classes)
    written: dict[str, BinCase] = {}
    with atomic_folder(target, "--output_dir", "folder of bins", _is_folder_of_bins) as folder:
        for case in cases:
            try:
                block = load_native(case, manager).block_image
            except DataError as error:
                problems += error.problems
                continue
            path = folder / f"{case.case_id}{SUFFIX}"
            with atomic_path(path) as temporary:
                block.astype(FLOAT).tofile(temporary)
            written[case.case_id] = BinCase(case.case_id, str(case.image_path), file_sha256(path))
            logger.info("%s (%d of %d)", path.name, len(written), len(cases))
        if problems:
            raise DataError(problems)
        listed = CaseList(target, recipe, dict(model or {}), written)
        write_json(folder / CASES_NAME, _describe(listed, recipe_name))
    logger.info("bins: %s, %d of shape %s", target, len(written), " x ".join(map(str, listed.input_shape)))
    return listed


def read_case_list(folder: Path) -> CaseList:
    """Read what `write_bins` wrote.

    Raises:
        UserError: `cases.json` is missing, damaged or of another version.
    """
    path = Path(folder) / CASES_NAME
    remedy = "run preprocess.py, or give its folder with --preprocess_dir"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (content["format"], content["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise UserError(f"{path}: format {content['format']!r} version {content['format_version']!r}, expected "
                            f"{FORMAT!r} version {FORMAT_VERSION}; {remedy}")
        recipe = apply_overrides(RECIPES[content["recipe_name"]], content["recipe"])
        cases = [BinCase(entry["case_id"], entry["source"], entry["sha256"]) for entry in content["cases"]]
        return CaseList(Path(folder), recipe, content["model"], {case.case_id: case for case in cases})
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: was changed or is of another program ({type(error).__name__}: {error}); "
                        f"{remedy}") from error


def evaluate_results(data_path: Path, split_path: Path, result_path: Path, preprocess_dir: Path,
                     output: Path) -> list[dict[str, Any]]:
    """Score a program's answers to the bins as `evaluate_split` does the network's: masks, tables, report, log.

    Args:
        data_path, split_path: as for `write_bins`; the split may have fewer cases.
        result_path: folder of the answers.
        preprocess_dir: folder of the bins.
        output: folder of the results; masks go to the recipe's `dirPredictionImage` in it.

    Returns:
        A row per case, see `evaluate_split`.

    Raises:
        UserError: a folder or the split is wrong, or the data is not what the bins were made of.
        DataError: lists every bin and every answer that is missing, damaged or no probability; or, if these are all
            right, every problem of the data.
    """
    listed = read_case_list(preprocess_dir)
    cases = all_found(get_task(listed.recipe["task"]).scan_cases(data_path, read_split(split_path)))
    problems = [problem for case in cases for problem in _result_problems(listed, case, result_path)]
    if problems:
        raise DataError(problems)
    left = sorted(set(listed.cases) - {case.case_id for case in cases})
    if left:
        logger.warning("bins that are not of this split, and so not scored: %s", ", ".join(left))
    predictor = ResultPredictor(listed, [listed.cases[case.case_id] for case in cases], result_path)
    origin = listed.model.get("checkpoint")
    title = Path(f"{Path(result_path).resolve().name}{f', answers of {origin}' if origin else ''}")
    answered_by = Checkpoint(title, {}, {"epoch": listed.model.get("epoch")})
    folders = OutputFolders(output, output / listed.recipe["dirPredictionImage"])
    return evaluate_split(predictor, listed.recipe, answered_by, data_path, split_path, folders)


class ResultPredictor:
    """Answers each case's block by what a program answered to its bin.

    Args:
        listed: what the bins are.
        cases: in the order in which they will be asked for.
        result_path: folder of the answers, which were checked.
    """

    def __init__(self, listed: CaseList, cases: Sequence[BinCase], result_path: Path):
        self.listed = listed
        self.path: Path | None = Path(result_path)
        self._cases: Iterator[BinCase] = iter(cases)

    def predict_block(self, image: np.ndarray) -> np.ndarray:
        """Return the next case's probability (X, Y, Z) or (C, X, Y, Z) float32, whose block (X, Y, Z) `image` is.

        Raises:
            UserError: the block is not what the case's bin holds; names case and bin.
        """
        case = next(self._cases)
        path = self.listed.folder / case.name
        sent = np.fromfile(path, FLOAT).reshape(self.listed.input_shape)[0, 0]
        difference = float(np.abs(sent - image).max())
        if not difference <= SAME_BLOCK:
            raise UserError(f"{case.case_id}: its preprocessed image differs by {difference:.3g} from {path}, expected "
                            f"at most {SAME_BLOCK:g}, so {case.source} or the program has changed since; run "
                            "preprocess.py, the model and postprocess.py again")
        assert self.path is not None
        return np.fromfile(self.path / case.result_name, FLOAT).reshape(self.listed.output_shape)[0]


def _describe(listed: CaseList, recipe_name: str) -> dict[str, Any]:
    classes = listed.recipe["classes"]
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "input": {"shape": list(listed.input_shape), "layout": "NCXYZ", "dtype": "float32", "byte_order": "little"},
        "output": {"shape": list(listed.output_shape), "layout": "NCXYZ" if classes > 2 else "NXYZ",
                   "dtype": "float32", "byte_order": "little"},
        "model": listed.model,
        "recipe_name": recipe_name,
        "recipe": plain(listed.recipe),
        "cases": [{"case_id": case.case_id, "file": case.name, "sha256": case.sha256, "source": case.source}
                  for case in listed.cases.values()],
    }


def _is_folder_of_bins(folder: Path) -> bool:
    names = [path.name for path in folder.iterdir()]
    return CASES_NAME in names and all(name == CASES_NAME or name.endswith(SUFFIX) for name in names)


def _result_problems(listed: CaseList, case: Case, result_path: Path) -> list[str]:
    """Say what is wrong with a case's bin and with the answer to it."""
    found = listed.cases.get(case.case_id)
    if found is None:
        return [f"{case.case_id}: not in {listed.folder / CASES_NAME}; run preprocess.py and the model with this split"]
    problems = []
    sent = listed.folder / found.name
    if not sent.is_file() or file_sha256(sent) != found.sha256:
        problems.append(f"{case.case_id}: {sent} is {'changed' if sent.is_file() else 'missing'}; run preprocess.py "
                        "and the model again")
    path = Path(result_path) / found.result_name
    expected = int(np.prod(listed.output_shape)) * FLOAT.itemsize
    again = "run the model again"
    if not path.is_file():
        return [*problems, f"{case.case_id}: the answer {path} is missing; {again}"]
    if (size := path.stat().st_size) != expected:
        return [*problems, f"{case.case_id}: the answer {path} has {size} bytes, expected {expected} (float32 of "
                           f"{' x '.join(map(str, listed.output_shape))}); {again}, with the model of this recipe"]
    answer = np.fromfile(path, FLOAT)
    low, high = float(answer.min()), float(answer.max())
    if not (low >= -PROBABILITY_SLACK and high <= 1 + PROBABILITY_SLACK):  # NaN is neither
        problems.append(f"{case.case_id}: the answer {path} has values from {low:g} to {high:g}, expected "
                        f"probabilities from 0 to 1; {again}, exported by export.py")
    return problems
