"""Check a whole data set before it is used, and list every problem in one go."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from src.data.case import Case
from src.data.data_manager import DataManager, Sample
from src.data.slices import SliceManager
from src.errors import DataError

logger = logging.getLogger(__name__)


def check_cases(cases: Iterable[Case], manager: DataManager) -> list[str]:
    """Load every case and collect what is wrong.

    A sound case gives a log line with its size, spacing and foreground. A label that is empty or reaches beyond the
    network's block is a warning, since such cases can be trained and evaluated on.

    Returns:
        One sentence per problem, naming case, file, what was found and expected, and what to do.
    """
    problems = []
    for case in cases:
        try:
            sample = manager.load(case)
        except DataError as error:
            problems += error.problems
            continue
        _log(sample, manager)
    return problems


def checked_cases(task: ModuleType, data_path: Path, names: Sequence[str], manager: DataManager,
                  problems: Sequence[str] = ()) -> list[Case]:
    """Return the named cases of a data set after checking all their files.

    Args:
        task: the data set's module, see `src.data.get_task`.
        data_path: its folder.
        names: image file names.
        manager: the preprocessing they have to pass.
        problems: what is known to be wrong already, to be listed first.

    Raises:
        DataError: with every problem: `problems`, missing files, and what `check_cases` finds.
    """
    cases, missing = task.scan_cases(data_path, names, classes=manager.classes)
    found = [*problems, *missing, *check_cases(cases, manager)]
    if found:
        raise DataError(found)
    return cases


def _log(sample: Sample, manager: DataManager) -> None:
    native = sample.native
    if isinstance(manager, SliceManager):
        _log_pictures(sample)
        return
    text = (f"{sample.case_id}: {' x '.join(map(str, native.size))} voxels of "
            f"{' x '.join(f'{length:.4g}' for length in native.spacing)} mm")
    if sample.label is None:
        logger.info("%s, no label", text)
        return
    logger.info("%s, foreground %.2f ml, %.1f %% of it outside the block", text, sample.foreground_ml,
                100 * sample.cropped_foreground)
    if sample.foreground_ml == 0:
        logger.warning("%s: the label is empty; check that this is meant", sample.case_id)
    if sample.cropped_foreground > 0:
        logger.warning("%s: %.1f %% of the foreground lies outside the centre block of %s voxels at %s mm; "
                       "enlarge VolSize or dstRes", sample.case_id, 100 * sample.cropped_foreground,
                       manager.volume_size, manager.spacing)


def _log_pictures(sample: Sample) -> None:
    x, y, z = sample.native.size
    text = f"{sample.case_id}: {f'{z} slices of ' if z > 1 else ''}{x} x {y} pixels"
    if sample.label is None:
        logger.info("%s, no label", text)
        return
    logger.info("%s, foreground %.2f %% of what the network sees", text, 100 * float(np.mean(sample.label)))
    if sample.foreground_ml == 0:
        logger.warning("%s: the label is empty; check that this is meant", sample.case_id)
    if sample.cropped_foreground > 0:
        logger.warning("%s: %.1f %% of the foreground lies outside the box of the brain, which the network sees; check "
                       "the masks", sample.case_id, 100 * sample.cropped_foreground)
