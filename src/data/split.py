"""Which cases train and which validate: split files, and ways to draw a split.

A split file has one image file name a line (`Case00.mhd`) and no header.
"""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from src.data.case import split_volume_name
from src.errors import DataError, UserError
from src.files import write_text

# Validation cases of the published PROMISE12 figures: 40 training and 10 validation cases.
PROMISE12_VALIDATION = (11, 15, 19, 30, 42, 43, 44, 46, 48, 49)


def read_split(path: Path) -> list[str]:
    """Read a split file.

    Returns:
        File names in the file's order.

    Raises:
        DataError: with everything that `split_problems` finds.
    """
    names, problems = split_problems(path)
    if problems:
        raise DataError(problems)
    return names


def split_problems(path: Path) -> tuple[list[str], list[str]]:
    """Read a split file and say what is wrong with it, so that the problems of several files can be shown at once.

    Returns:
        The usable file names, each once, in the file's order; and one sentence per problem: the file is missing, no
        text or empty, or a name is given twice or with a folder.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        return [], [f"split file {path} cannot be read ({reason}); "
                    "write one with: bash scripts/create_csv.sh OUT_PATH RANDOM"]
    counts = Counter(name for line in text.splitlines() if (name := line.strip()))
    if not counts:
        return [], [f"{path}: the split is empty; write one case file name a line, e.g. Case00.mhd"]
    usable: list[str] = []
    problems: list[str] = []
    for name, count in counts.items():
        if name in (".", "..") or re.search(r"[/\\\0]", name):
            problems.append(f"{path}: {name!r} is a path, expected a bare file name such as Case00.mhd; "
                            "volumes are looked up in the data folder")
        else:
            usable.append(name)
        if count > 1:
            problems.append(f"{path}: {name} is listed {count} times, expected once; delete the repetitions")
    return usable, problems


def write_split(path: Path, names: Iterable[str]) -> None:
    """Write file names to a split file, one a line, atomically."""
    write_text(path, "".join(f"{name}\n" for name in names))


def holdout_split(
    names: Iterable[str], validation_ids: Sequence[int] = PROMISE12_VALIDATION
) -> tuple[list[str], list[str]]:
    """Split by fixed case numbers.

    Args:
        names: file names ending in the case's number, e.g. `Case11.mhd`.
        validation_ids: numbers of the validation cases.

    Returns:
        Training and validation names, each sorted.

    Raises:
        UserError: training or validation would be empty.
    """
    names = sorted(names)
    validation = [name for name in names if _case_number(name) in validation_ids]
    train = [name for name in names if name not in validation]
    if not validation or not train:
        raise UserError(f"holding out the case numbers {' '.join(map(str, validation_ids))} leaves {len(train)} "
                        f"training and {len(validation)} validation cases of {len(names)}; draw the split at random")
    return train, validation


def random_split(names: Iterable[str], validation_count: int, seed: int) -> tuple[list[str], list[str]]:
    """Draw validation cases by seed; the order of `names` does not matter.

    Returns:
        Training and validation names, each sorted.

    Raises:
        UserError: training or validation would be empty.
    """
    shuffled = _shuffled(names, seed)
    if not 0 < validation_count < len(shuffled):
        raise UserError(f"cannot draw {validation_count} validation cases from {len(shuffled)} cases; "
                        "both parts need at least one")
    return sorted(shuffled[validation_count:]), sorted(shuffled[:validation_count])


def fold_split(names: Iterable[str], fold: int, folds: int, seed: int) -> tuple[list[str], list[str]]:
    """Make one fold of a k-fold cross-validation; the order of `names` does not matter.

    Over all folds every name validates exactly once, and fold sizes differ by at most one.

    Returns:
        Training and validation names, each sorted.

    Raises:
        UserError: there is no such fold, or there are fewer cases than folds.
    """
    shuffled = _shuffled(names, seed)
    if not 2 <= folds <= len(shuffled) or not 0 <= fold < folds:
        raise UserError(f"fold {fold} of {folds} with {len(shuffled)} cases: expected at least 2 folds, "
                        "no more folds than cases, and a fold from 0 to folds - 1")
    validation = shuffled[fold::folds]
    return sorted(set(shuffled) - set(validation)), sorted(validation)


def split_hash(names: Iterable[str]) -> str:
    """Give a split's SHA-256 (hex), the same in whatever order the names come."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    ordered = sorted(names)
    random.Random(seed).shuffle(ordered)
    return ordered


def _case_number(name: str) -> int | None:
    match = re.search(r"(\d+)$", split_volume_name(name)[0])
    return int(match.group(1)) if match else None
