"""What a data set is like: its grids, intensities and labels, measured case by case; `proposal.py` draws on it.

The idea, and several of the figures, are those of nnU-Net: Isensee et al., Nature Methods 18, 2021,
doi:10.1038/s41592-020-01008-z.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from scipy import ndimage

from src.data.case import Case
from src.data.case_files import read_case
from src.data.geometry import Geometry
from src.errors import DataError

logger = logging.getLogger(__name__)

MAX_CLASSES = 16
TAILS = (0.5, 99.5)  # percentiles beyond which intensities count as spikes
_SAMPLED = 10_000  # foreground voxels of a case whose intensities are kept
_TOWARDS = ("LR", "PA", "SI")  # of the patient's axes x, y, z: where they lead, and where they come from


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """What one case is like.

    Attributes:
        case_id: the case's name.
        size, spacing, extent_mm: of the volume: voxels, mm, mm (x, y, z).
        orientation: the patient's direction in which each index grows, such as LPS: left, posterior, superior.
        tilt: largest angle between an index's direction and the patient's axis nearest to it, degrees.
        intensities: minimum, percentiles 0.5 and 99.5, maximum of the image.
        label_voxels: number of voxels of each stored label value but 0.
        foreground_share: of the volume, 0 to 1.
        foreground_mm: edges of the smallest box that holds the foreground, mm (x, y, z); zeros where there is none.
        centred_mm: the same of the box around the volume's centre.
        components: number of connected parts of the foreground, through faces.
        largest_share: of the foreground that is in its largest part, 0 to 1.
        foreground_sample: intensities of at most 10,000 foreground voxels, evenly spaced in memory.
    """

    case_id: str
    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    extent_mm: tuple[float, float, float]
    orientation: str
    tilt: float
    intensities: tuple[float, float, float, float]
    label_voxels: dict[float, int]
    foreground_share: float
    foreground_mm: tuple[float, float, float]
    centred_mm: tuple[float, float, float]
    components: int
    largest_share: float
    foreground_sample: np.ndarray

    @property
    def spiky(self) -> bool:
        """Whether the lowest or highest 0.5 % of voxels make the range of intensities longer by more than one half."""
        minimum, low, high, maximum = self.intensities
        return max(low - minimum, maximum - high) > 0.5 * (high - low)

    def class_voxels(self, classes: int) -> list[int]:
        """Return the voxels of each class from 1 to classes - 1; with two classes any value is class 1."""
        if classes == 2:
            return [sum(self.label_voxels.values())]
        rounded = {round(value): count for value, count in self.label_voxels.items()}
        return [rounded.get(number, 0) for number in range(1, classes)]

    def class_ml(self, classes: int) -> list[float]:
        """Return the volume of each class from 1 to classes - 1, millilitres."""
        return [count * float(np.prod(self.spacing)) / 1000 for count in self.class_voxels(classes)]


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What a data set is like.

    Attributes:
        cases: at least one.
        classes: of the labels, background included.
        notes: what the person in front of it should know, in sentences.
    """

    cases: tuple[CaseFacts, ...]
    classes: int
    notes: tuple[str, ...]

    def table(self, name: str) -> np.ndarray:
        """Return one of the facts of all cases, (cases,) or (cases, 3) float64."""
        return np.array([getattr(case, name) for case in self.cases], float)

    def foreground_intensities(self) -> np.ndarray:
        """Return the percentiles 0.5, 50 and 99.5 over the foreground of all cases, (3,)."""
        return np.percentile(np.concatenate([case.foreground_sample for case in self.cases]), (TAILS[0], 50, TAILS[1]))

    def balance(self) -> list[dict[str, float]]:
        """Return for each class from 1 on: voxels in all, median millilitres, share of the foreground, its cases."""
        voxels = np.array([case.class_voxels(self.classes) for case in self.cases], float)
        millilitres = np.array([case.class_ml(self.classes) for case in self.cases])
        return [{"class": number + 1, "voxels": float(voxels[:, number].sum()),
                 "median_ml": float(np.median(millilitres[:, number])),
                 "share_of_foreground": float(voxels[:, number].sum() / voxels.sum()),
                 "cases": int(np.count_nonzero(voxels[:, number]))} for number in range(self.classes - 1)]

    def lines(self) -> list[str]:
        """Return the fingerprint as lines to be read."""
        orientations = Counter(case.orientation for case in self.cases)
        low, middle, high = self.foreground_intensities()
        images = self.table("intensities")
        parts = self.table("components")
        share = 100 * self.table("foreground_share")
        rows = [
            ("cases", str(len(self.cases))),
            ("size", _spread(self.table("size"), "voxels")),
            ("spacing", _spread(self.table("spacing"), "mm")),
            ("extent", _spread(self.table("extent_mm"), "mm")),
            ("orientation", ", ".join(f"{code} {count}" for code, count in orientations.most_common())
             + f"; largest tilt {self.table('tilt').max():.1f} degrees"),
            ("intensities", f"{images[:, 0].min():.6g} to {images[:, 3].max():.6g}; over the foreground 0.5 % "
                            f"{low:.6g}, 50 % {middle:.6g}, 99.5 % {high:.6g}; spikes in "
                            f"{sum(case.spiky for case in self.cases)} cases"),
            ("foreground", f"median {np.median(share):.3g} % of the volume, {share.min():.3g} to {share.max():.3g} %"),
            ("", "box " + _spread(self.table("foreground_mm"), "mm")),
            *((f"class {row['class']:.0f}",
               f"{row['voxels']:.0f} voxels, {100 * row['share_of_foreground']:.3g} % of the foreground, "
               f"median {row['median_ml']:.3g} ml, in {row['cases']:.0f} cases") for row in self.balance()),
            ("components", f"median {np.median(parts):g}, {parts.min():g} to {parts.max():g}; the largest holds at "
                           f"least {np.floor(1000 * self.table('largest_share').min()) / 10:g} % of the foreground"),
        ]
        return [*(f"{name:<12} {text}" for name, text in rows), *(f"note: {note}" for note in self.notes)]

    def to_json(self) -> dict[str, Any]:
        """Return the fingerprint as plain JSON types."""
        kept = [field.name for field in fields(CaseFacts) if field.name not in ("foreground_sample", "label_voxels")]
        cases = [{name: getattr(case, name) for name in kept} | {
            "class_voxels": case.class_voxels(self.classes), "class_ml": case.class_ml(self.classes)}
            for case in self.cases]
        return {"classes": self.classes, "notes": list(self.notes), "balance": self.balance(),
                "foreground_intensities": dict(zip(("p0.5", "p50", "p99.5"), self.foreground_intensities().tolist(),
                                                   strict=True)), "cases": cases}


def take_fingerprint(task: ModuleType, data_path: Path, names: Sequence[str],
                     problems: Sequence[str] = ()) -> Fingerprint:
    """Read the named cases, one at a time, and measure them.

    Args:
        task: the data set's module, see `src.data.get_task`; of images of one channel.
        data_path: its folder.
        names: image file names.
        problems: what is known to be wrong already, to be listed first.

    Raises:
        DataError: with every problem of every case, see `read_case`; labels of values that are no classes; no
            foreground at all.
    """
    cases, missing = task.scan_cases(data_path, names)
    found = [*problems, *missing]
    facts = []
    for case in cases:
        try:
            if case.label_path is None:  # one of the missing; its image may have problems as well
                read_case(case)
                continue
            facts.append(measure(case))
        except DataError as error:
            found += error.problems
            continue
        logger.info("%s: %s voxels, foreground %.2f ml", case.case_id, " x ".join(map(str, facts[-1].size)),
                    sum(facts[-1].class_ml(2)))
    if not found:
        classes, notes, found = _classes(facts)
    if not found and not any(case.label_voxels for case in facts):
        found = [f"{data_path}: no label of the {len(facts)} cases has any foreground; check the labels"]
    if found:
        raise DataError(found)
    return Fingerprint(tuple(facts), classes, (*notes, *_grid_notes(facts)))


def measure(case: Case) -> CaseFacts:
    """Read a case with its label and measure it.

    Raises:
        DataError: every problem of the case, each beginning with the case id.
    """
    image, label, native = read_case(case, classes=None)
    assert label is not None
    values, counts = np.unique(label, return_counts=True)
    foreground = {float(value): int(count) for value, count in zip(values, counts, strict=True) if value != 0}
    if problem := _value_problem(list(foreground)):
        raise DataError([f"{case.case_id}: {case.label_path}: {problem}"])
    mask = label != 0
    box = ndimage.find_objects(mask.astype(np.uint8))[0] if foreground else (slice(0, 0),) * 3
    parts, components = ndimage.label(mask[box])
    sizes = np.bincount(parts.ravel())[1:]
    first, end = (np.array([getattr(axis, name) for axis in box], float) for name in ("start", "stop"))
    half = np.array(native.size) / 2
    inside = image[mask].astype(np.float64)
    low, high = np.percentile(image, TAILS)
    code, tilt = orientation(native)
    return CaseFacts(
        case.case_id, native.size, native.spacing, _three(native.extent), code, tilt,
        (float(image.min()), float(low), float(high), float(image.max())), foreground, float(mask.mean()),
        _three((end - first) * native.spacing),
        _three(2 * np.maximum(half - first, end - half) * native.spacing if foreground else np.zeros(3)), components,
        float(sizes.max() / sizes.sum()) if components else 1.0, inside[::max(1, -(-len(inside) // _SAMPLED))])


def orientation(geometry: Geometry) -> tuple[str, float]:
    """Return the code of a grid's directions, such as LPS, and the largest angle to the nearest patient axis, degrees.

    The first letter is the patient's direction (Left or Right, Posterior or Anterior, Superior or Inferior) in which
    the first index grows, as far as one of them can say it. Points are in ITK's frame: x to the left, y to the back.
    """
    nearest = np.abs(geometry.matrix).argmax(axis=0)
    cosines = geometry.matrix[nearest, range(3)]
    code = "".join(_TOWARDS[axis][int(cosine < 0)] for axis, cosine in zip(nearest, cosines, strict=True))
    return code, float(np.degrees(np.arccos(np.minimum(np.abs(cosines), 1))).max())


def by_axis(values: Sequence[float] | np.ndarray) -> str:
    """Return the values along x, y and z in four digits, such as 0.625 x 0.625 x 3.6."""
    return " x ".join(f"{value:.4g}" for value in values)


def _value_problem(values: Sequence[float]) -> str:
    """Say what is wrong with a label's values other than 0; "" when they can be classes, or one foreground value."""
    if all(_is_class(value) for value in values) or (len(values) == 1 and values[0] > 0.5):
        return ""
    listed = ", ".join(f"{value:g}" for value in values[:6]) + (", …" if len(values) > 6 else "")
    return (f"label values other than 0 are {{{listed}}}, expected one value above 0.5, or whole numbers from 1 to "
            f"{MAX_CLASSES - 1}; correct the label")


def _is_class(value: float) -> bool:
    return abs(value - round(value)) <= 1e-3 and 1 <= round(value) < MAX_CLASSES


def _classes(facts: Sequence[CaseFacts]) -> tuple[int, list[str], list[str]]:
    """Return the number of classes, notes on it, and a problem for each case that does not fit the others."""
    several = any(len(case.label_voxels) > 1 for case in facts)
    values = sorted({value for case in facts for value in case.label_voxels})
    listed = ", ".join(f"{value:g}" for value in values)
    if not several and (len(values) <= 1 or not all(map(_is_class, values))):
        note = f"labels have one foreground value each, but not the same ({listed}); all are taken as one class"
        return 2, [note] if len(values) > 1 else [], []
    classes = max(round(value) for value in values if _is_class(value)) + 1
    problems = [f"{case.case_id}: label values other than 0 are {{{next(iter(case.label_voxels)):g}}}, those of other "
                f"cases classes from 1 to {classes - 1}; correct the label"
                for case in facts if not all(map(_is_class, case.label_voxels))]
    notes = [] if several else [f"no case has more than one foreground value ({listed} in all); they are taken as "
                                "classes: make the labels equal if they mean one structure"]
    if absent := set(range(1, classes)) - {round(value) for value in values}:
        notes.append(f"no case has class {', '.join(map(str, sorted(absent)))}; the network would learn it for nothing")
    return classes, notes, problems


def _grid_notes(facts: Sequence[CaseFacts]) -> list[str]:
    notes = []
    sizes = np.median([case.size for case in facts], axis=0)
    if all(case.spacing == (1, 1, 1) for case in facts) and sizes.max() >= 2 * sizes.min():
        notes.append(f"every spacing is 1 x 1 x 1 mm, with a matrix of {by_axis(sizes)} voxels: the true spacing was "
                     "probably lost, and distances would be in voxels, not in mm")
    if len(codes := sorted({case.orientation for case in facts})) > 1:
        notes.append(f"volumes are oriented differently ({', '.join(codes)}): normDir=true brings them to one")
    if empty := [case.case_id for case in facts if not case.label_voxels]:
        notes.append(f"the label is empty in {', '.join(empty)}; check that this is meant")
    return notes


def _spread(values: np.ndarray, unit: str) -> str:
    middle, low, high = np.median(values, axis=0), values.min(axis=0), values.max(axis=0)
    edges = "" if np.array_equal(low, high) else f", {by_axis(low)} to {by_axis(high)}"
    return f"median {by_axis(middle)} {unit}{edges}"


def _three(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
