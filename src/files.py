"""Files that appear whole or not at all: temporary file, fsync, rename."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_claimed: dict[Path, int] = {}  # folders of this process -> descriptor


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in `path`'s folder; on success it is synced and renamed to `path`.

    The temporary name keeps the suffix, since writers such as SimpleITK choose the format by it.
    The folder is created when missing. On an exception the temporary file is removed.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp{''.join(target.suffixes)}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(target)
        _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` (UTF-8) to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write `content` as indented JSON to `path` atomically; NaN and infinity are refused with ValueError."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def claim_folder(folder: Path) -> bool:
    """Keep a folder for this process until it ends; return False if another one has it.

    By flock(2) on the folder itself, so nothing is left in it, whatever ends the process. Where the file system has no
    locks, everybody may have it.
    """
    place = folder.resolve()
    if place in _claimed:
        return True
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError:  # network file systems
        os.close(descriptor)
        return True
    _claimed[place] = descriptor
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
