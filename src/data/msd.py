"""The layout of the Medical Segmentation Decathlon: `imagesTr/NAME_001.nii.gz` and `labelsTr/NAME_001.nii.gz`.

Antonelli et al., Nature Communications 13, 2022, doi:10.1038/s41467-022-30695-9.
"""

from collections.abc import Callable
from pathlib import Path

from src.data import nifti
from src.data.case import split_volume_name
from src.data.case_files import find_label_problems
from src.data.layout import Layout

IMAGE_FOLDER = "imagesTr"
LABEL_FOLDER = "labelsTr"


def msd_layout(suffixes: tuple[str, ...] = nifti.SUFFIXES,
               label_problems: Callable[[Path, int | None], list[str]] = find_label_problems) -> Layout:
    """Return the layout for volumes of the given suffixes; a label has the name of its image, or another suffix."""
    def label_names(name: str) -> list[str]:
        stem = split_volume_name(name, suffixes)[0]
        return [name, *(stem + suffix for suffix in suffixes)]

    return Layout(IMAGE_FOLDER, LABEL_FOLDER, label_names, suffixes, label_problems)
