"""What an exported model and the checkpoint it comes from are compared on: a real case, or a generated picture."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from src.checkpoint import Checkpoint
from src.data import Case, get_task
from src.data.data_manager import DataManager
from src.data.slices import SliceManager
from src.errors import UserError
from src.inference.evaluate import load_native
from src.inference.slices import block_pictures

logger = logging.getLogger(__name__)

SAMPLE_DATA = Path(__file__).resolve().parents[2] / "data" / "sample"
# Its licence asks for this wherever a case of it goes.
SAMPLE_SOURCE = ("this program's data/sample, from Medical Segmentation Decathlon Task04_Hippocampus "
                 "(http://medicaldecathlon.com), CC-BY-SA 4.0, resampled and normalised")
GENERATED = "generated"


@dataclass(frozen=True, eq=False)
class GoldenInput:
    """What the model is to answer.

    Attributes:
        case_id: the case's name.
        source: where it comes from, in words.
        array: (1, X, Y, Z), or (channels, H, W), float32, preprocessed.
    """

    case_id: str
    source: str
    array: np.ndarray


def golden_input(checkpoint: Checkpoint, recipe: Mapping[str, Any], manager: DataManager,
                 data_path: Path | None = None) -> GoldenInput:
    """Return what to compare on, with a line in the log; a warning where the bundle will hold a case of the user's.

    Args:
        checkpoint, recipe, data_path: see `golden_case`; without `data_path` recipes of pictures get a generated one.
        manager: the recipe's preprocessing.

    Raises:
        UserError: no case there.
        DataError: it cannot be read.
    """
    if data_path is None and isinstance(manager, SliceManager):
        logger.info("comparing on a generated picture; for a real one, give a data folder with --data_path")
        return GoldenInput(GENERATED, "a generated picture: smooth random numbers, no image of anything",
                           generated_picture(manager.channels, manager.image_size))
    case = golden_case(checkpoint, recipe, data_path)
    logger.info("comparing on the real case %s", case.image_path)
    if data_path is not None:
        logger.warning("the bundle will hold the preprocessed image of %s, since --data_path was given; pass it on "
                       "only if this image may be, or export without --data_path", case.case_id)
    source = SAMPLE_SOURCE if data_path is None else "the data folder given to export"
    image = load_native(case, manager).block_image
    if isinstance(manager, SliceManager):
        pictures = block_pictures(image)
        return GoldenInput(case.case_id, source, np.ascontiguousarray(pictures[len(pictures) // 2], np.float32))
    # With patches the block is the whole volume: its middle is what the model takes at once.
    block = tuple(slice((size - edge) // 2, (size - edge) // 2 + edge)
                  for size, edge in zip(image.shape, recipe["VolSize"], strict=True))
    return GoldenInput(case.case_id, source, image[block][None])


def generated_picture(channels: int, size: tuple[int, int]) -> np.ndarray:
    """Return (channels, H, W) float32 of smooth random numbers, mean 0 and standard deviation 1 in each channel.

    Always the same for one shape.

    Args:
        channels: of the picture.
        size: pixels (x, y), W and H.
    """
    noise = np.random.default_rng(1).standard_normal((channels, size[1], size[0]))
    smooth = ndimage.gaussian_filter(noise, (0, 3, 3))  # edges and blobs of some pixels, as a network looks for
    axes = (1, 2)
    scaled = (smooth - smooth.mean(axes, keepdims=True)) / smooth.std(axes, keepdims=True)
    return scaled.astype(np.float32)


def golden_case(checkpoint: Checkpoint, recipe: Mapping[str, Any], data_path: Path | None = None) -> Case:
    """Return the real case to compare on: the first validation case of the checkpoint that is there, else the first.

    Args:
        checkpoint: its `validation_names` count where `data_path` is given.
        recipe: its `task` counts.
        data_path: folder that holds the task's images; None: the repository's sample, whose first case is taken.

    Raises:
        UserError: no case there.
    """
    task = get_task("promise12" if data_path is None else recipe["task"])  # the sample has that layout
    folder = SAMPLE_DATA if data_path is None else data_path
    # Names of another data set say nothing about the sample's cases.
    preferred = [] if data_path is None else checkpoint.state.get("validation_names", [])
    try:
        names = task.all_names(folder)
        wanted = [name for name in preferred if name in names]
        return task.find_cases(folder, (wanted or names)[:1], need_labels=False)[0]
    except UserError as error:
        raise UserError(f"export compares model and checkpoint on a real case, and there is none: {error}. "
                        "Give a data folder with --data_path") from error
