"""Data sets in the PROMISE12 layout: `img/Case00.mhd` and `gt/Case00_segmentation.mhd` below the data folder.

PROMISE12: Litjens et al., Medical Image Analysis 18(2), 2014, doi:10.1016/j.media.2013.12.002.
"""

from src.data import volume_inputs
from src.data.case import split_volume_name
from src.data.layout import Layout

IMAGE_FOLDER = "img"
LABEL_FOLDER = "gt"


def label_name(image_name: str) -> str:
    """Give the ground truth's file name: `Case00_segmentation.mhd` for `Case00.mhd`."""
    stem, suffix = split_volume_name(image_name)
    return f"{stem}{volume_inputs.LABEL_ENDING}{suffix}"


LAYOUT = Layout(IMAGE_FOLDER, LABEL_FOLDER, lambda name: [label_name(name)])
all_names, find_cases, scan_cases = LAYOUT.all_names, LAYOUT.find_cases, LAYOUT.scan_cases
case_id, find_inputs = LAYOUT.case_id, volume_inputs.find_inputs
