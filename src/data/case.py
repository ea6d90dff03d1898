"""One patient's files, and how a volume's file name splits into case id and suffix."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

VOLUME_SUFFIXES = (".mhd", ".mha", ".nii.gz", ".nii")
MASK_ENDING = "_test"  # of the names of predicted masks


@dataclass(frozen=True)
class Case:
    """Where one case lies on disk.

    Attributes:
        case_id: the image's file name without suffix, e.g. `Case00`; names every file written for the case.
        image_path: the image volume.
        label_path: the ground truth on the image's grid, or None where there is none.
        region_path: a mask of the pixels that count, or None.
        page: of a TIFF stack, from 0, in image and ground truth alike; None for files that are no stack.
    """

    case_id: str
    image_path: Path
    label_path: Path | None = None
    region_path: Path | None = None
    page: int | None = None


def split_volume_name(name: str, suffixes: Sequence[str] = VOLUME_SUFFIXES) -> tuple[str, str]:
    """Split `Case00.nii.gz` into `("Case00", ".nii.gz")`; the suffix is "" when it is none of `suffixes`."""
    for suffix in suffixes:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)], name[-len(suffix) :]
    return name, ""
