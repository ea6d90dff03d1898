"""Pictures from and to TIFF, PNG and GIF files.

The only file that knows Pillow, whose arrays are (y, x) or (y, x, channel); everywhere else a picture is (C, x, y).
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from src.errors import DataError, UserError
from src.files import atomic_path

logger = logging.getLogger(__name__)

SUFFIXES = (".tif", ".tiff", ".png", ".gif")
_GREY = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
_RGB = ("RGB", "P", "PA")  # a palette stands for colours


def page_count(path: Path) -> int:
    """Return how many pages a file has, 1 unless it is a TIFF stack.

    Raises:
        DataError: the file is missing or damaged.
    """
    return _read(path, lambda image: getattr(image, "n_frames", 1))


def read_picture(path: Path, page: int | None = None) -> np.ndarray:
    """Read a picture, or a page of a stack.

    Palettes are looked up. Of colours of 16 bits Pillow keeps the upper 8; greys keep all of theirs.

    Args:
        path: of the file.
        page: of a stack, from 0; None where the file has to hold one picture alone.

    Returns:
        (C, x, y) as stored, uint8, uint16, int32 or float32; C is 1 or 3.

    Raises:
        DataError: the file is missing or damaged, has no such page or several pages, is neither grey nor RGB, is partly
            transparent, or holds values that are not finite.
    """
    def pixels(image: Image.Image) -> np.ndarray:
        count = getattr(image, "n_frames", 1)
        if page is None and count != 1:
            raise DataError([f"{path}: {count} pages, expected one picture; save the pages one by one"])
        if page is not None and page >= count:
            raise DataError([f"{path}: no page {page}, the last of {count} pages is {count - 1}; correct the name"])
        image.seek(page or 0)
        return _pixels(path, image)

    array = _read(path, pixels)
    if array.dtype.kind == "f" and (bad := int(np.count_nonzero(~np.isfinite(array)))):
        raise DataError([f"{path}: {bad} of {array.size} pixels are not finite (NaN or infinity); replace them"])
    return np.ascontiguousarray(array.transpose(2, 1, 0))


def read_mask(path: Path, page: int | None = None) -> np.ndarray:
    """Read a mask, (x, y) uint8 of {0, 1}: of 0 and one other value, or as colours black and one other grey.

    Raises:
        DataError: as `read_picture`, or the mask has colours or further values.
    """
    array = read_picture(path, page)
    if np.any(array != array[:1]):
        raise DataError([f"{path}: a mask in colours, expected 0 and one value above; make it black and white"])
    values = np.unique(array)
    if len(values[values != 0]) > 1 or values[0] < 0:
        listed = ", ".join(f"{value:g}" for value in values[:6]) + (", …" if len(values) > 6 else "")
        raise DataError([f"{path}: mask values are {{{listed}}}, expected 0 and one value above; "
                         "make the mask two-valued, without smoothing or lossy compression"])
    return (array[0] != 0).astype(np.uint8)


def mask_problems(path: Path, classes: int | None = None) -> list[str]:
    """Say what is wrong with a mask alone; empty when it is sound. `classes` is of no account."""
    try:
        read_mask(path)
    except DataError as error:
        return error.problems
    return []


def luma(picture: np.ndarray) -> np.ndarray:
    """Return a picture (1 or 3, x, y) as grey (x, y) float32, a colour by its luma of ITU-R BT.601."""
    if len(picture) == 1:
        return picture[0].astype(np.float32)
    return np.tensordot(np.array(_LUMA, np.float32), picture.astype(np.float32), axes=1)


def write_picture(path: Path, array: np.ndarray) -> None:
    """Write a grey picture (x, y) uint8; the suffix chooses the format, and the file appears whole or not at all.

    Raises:
        UserError: it cannot be written, as for want of permission or space.
    """
    try:
        with atomic_path(path) as temporary:
            Image.fromarray(np.ascontiguousarray(array.T)).save(temporary)
    except OSError as error:
        raise UserError(f"{path}: the picture cannot be written ({error.strerror or error}); check the path, its "
                        "permissions and the free space") from error


class PictureReader:
    """Reads the files of one case, so that all their problems come out at once.

    Attributes:
        problems: found so far, one sentence each.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []

    def picture(self, path: Path, page: int | None = None) -> np.ndarray | None:
        """Return `read_picture`'s (C, x, y), or None after noting what is wrong."""
        return self._try(read_picture, path, page)

    def mask(self, path: Path, like: np.ndarray | None, page: int | None = None) -> np.ndarray | None:
        """Return `read_mask`'s (x, y), or None after noting what is wrong, such as not having the size of `like`."""
        mask = self._try(read_mask, path, page)
        if mask is None or like is None or mask.shape == like.shape[-2:]:
            return mask
        self.problems.append(f"{path}: the mask has {size_text(mask.shape)} pixels, its picture "
                             f"{size_text(like.shape[-2:])}; they have to be of one size: export the mask again")
        return None

    def _try(self, read: Any, path: Path, page: int | None) -> np.ndarray | None:
        try:
            return read(path, page)
        except DataError as error:
            self.problems += error.problems
            return None


def size_text(shape: tuple[int, ...]) -> str:
    """Return a size in words: `565 x 584`."""
    return " x ".join(map(str, shape))


def _read(path: Path, take: Any) -> Any:
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with Image.open(path) as image:
                found = take(image)
        for warning in said:  # only of pictures that are read for all that: the others' problem is told
            logger.warning("%s: %s", path, " ".join(str(warning.message).split()))
        return found
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError([f"{path}: no such file; check the name and the folder"]) from error
    except Exception as error:  # a damaged file leads Pillow's decoders to any kind of error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = (reason.strip().splitlines() or [type(error).__name__])[0].replace(f" {str(path)!r}", "")
        raise DataError([f"{path}: cannot be read as a picture ({reason}); it is damaged or of an unknown format: "
                         "fetch or save it again"]) from error


def _pixels(path: Path, image: Image.Image) -> np.ndarray:
    """Return (y, x, C)."""
    if image.mode in ("LA", "RGBA"):
        if image.getchannel("A").getextrema() != (255, 255):
            raise DataError([f"{path}: partly transparent, expected a picture without; remove the alpha channel"])
        image = image.convert(image.mode[:-1])
    if image.mode in _GREY:
        array = np.array(image)
        return (array.astype(np.uint8) if array.dtype == bool else array)[..., np.newaxis]
    if image.mode in _RGB:
        return np.array(image.convert("RGB"))
    raise DataError([f"{path}: colour mode {image.mode}, expected grey or RGB; convert the picture"])
