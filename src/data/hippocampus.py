"""MSD Task04_Hippocampus: `imagesTr/hippocampus_001.nii.gz` and `labelsTr/hippocampus_001.nii.gz`.

Labels are 0 background, 1 anterior, 2 posterior, stored as integers or as floats. Names in split files are those of the
images. Another data set in this layout, of one channel, is read as well, with its own number of `classes`.
"""

from src.data import volume_inputs
from src.data.msd import msd_layout

LAYOUT = msd_layout()
all_names, find_cases, scan_cases = LAYOUT.all_names, LAYOUT.find_cases, LAYOUT.scan_cases
case_id, find_inputs = LAYOUT.case_id, volume_inputs.find_inputs
