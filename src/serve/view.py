"""What the page needs to show a volume with its mask, in one answer.

    4 bytes    length of the text, little-endian
    text       JSON: see `pack_view`
    bytes      the parts, whose lengths the text has: image and mask, uint8 with x fastest, and the mask's file
"""

import json
import struct
from collections.abc import Sequence

import numpy as np

from src.report.figures import PREDICTION_COLOURS
from src.report.montage import View, crop_window, grey_window, make_view
from src.serve.segmenter import Answer

CONTENT_TYPE = "application/x-vnet-view"
_SAMPLED = 1 << 20  # voxels that percentiles are taken of, at most
_PERCENTILES = (0.1, 99.9)  # single spikes would leave few greys to the rest
_PLANES = ("sagittal", "coronal", "axial")  # across the patient's axes
_ENDS = ("RL", "AP", "IS")  # of the patient's axes in LPS, where each begins and ends


def pack_view(answer: Answer, classes: int) -> bytes:
    """Return a volume and its mask for the page, turned to the radiological convention (see `make_view`).

    The text has `name`, `type` of the mask's file; `size`, `spacing` (mm) of image and mask as they are turned, of
    which axis 0 runs right, 1 down and 2 through slices; `ends`, the letters at both ends of each axis; `planes`, the
    names of the planes across each axis; `window`, the greys to show black and white; `classes`, with colour and volume
    in ml each; `stored`, the size as stored; `seconds` by stage; `parts`, their lengths.

    Args:
        answer: of the segmenter.
        classes: of the mask, background included.
    """
    case, native = answer.case, answer.case.native
    assert case.image is not None
    view = make_view(case.image, answer.mask, None, native.spacing, native.direction)
    assert view.prediction is not None
    image, window = _greys(view)
    counts = np.bincount(answer.mask.ravel(), minlength=classes)
    ends, planes = axis_names(native.direction)
    parts = [image.tobytes("F"), view.prediction.tobytes("F"), answer.content]
    text = json.dumps({
        "name": answer.name, "size": view.image.shape, "spacing": view.spacing, "stored": native.size,
        "ends": ends, "planes": planes, "window": window, "seconds": answer.job.seconds,
        "classes": [{"colour": PREDICTION_COLOURS[(number - 1) % len(PREDICTION_COLOURS)],
                     "ml": float(counts[number] * native.voxel_volume / 1000)} for number in range(1, classes)],
        "parts": [len(part) for part in parts]}, ensure_ascii=False).encode()
    return b"".join([struct.pack("<I", len(text)), text, *parts])


def axis_names(direction: Sequence[float]) -> tuple[list[str], list[str]]:
    """Return for the axes of a view, right, down and through, the two letters of their ends and the plane across each.

    Letters are those of the patient: right, left, anterior, posterior, inferior, superior; of oblique axes the nearest.

    Args:
        direction: of the volume, 9 numbers, row major, LPS.
    """
    axes = np.asarray(direction, np.float64).reshape(3, 3)
    patient = np.abs(axes).argmax(axis=0)
    right, down = (1, 0) if patient[0] > patient[1] else (0, 1)  # as make_view turns them
    through = _ENDS[patient[2]] if axes[patient[2], 2] > 0 else _ENDS[patient[2]][::-1]
    # Down is towards the feet, or the back.
    vertical = _ENDS[patient[down]][::-1] if patient[down] == 2 else _ENDS[patient[down]]
    return [_ENDS[patient[right]], vertical, through], [_PLANES[patient[axis]] for axis in (right, down, 2)]


def _greys(view: View) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the image (X, Y, Z) as uint8, and the greys to show black and white."""
    step = max(1, round((view.image.size / _SAMPLED) ** (1 / 3)))
    sample = view.image[::step, ::step, ::step]
    low, high = (float(value) for value in np.percentile(sample, _PERCENTILES))
    if not high > low:
        low, high = float(view.image.min()), float(view.image.max())
    scale = 255 / (high - low) if high > low else 1.0
    grey = np.clip((view.image - low) * scale, 0, 255).astype(np.uint8)
    return grey, grey_window(grey[crop_window(view)])
