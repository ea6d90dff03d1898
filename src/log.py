"""Where log lines go: plain on stdout, with time and level in a run's own file."""

import logging
import sys
from pathlib import Path


def setup_logging(log_file: Path | None = None, quiet: bool = False) -> None:
    """Send INFO and above to stdout as plain text, and to `log_file` (appended) with time and level.

    Args:
        log_file: created with its folder; None for stdout only.
        quiet: keep stdout for warnings and errors, as ranks above 0 do.
    """
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    console = logging.StreamHandler(sys.stdout)
    console.setLevel(logging.WARNING if quiet else logging.INFO)
    console.setFormatter(_LevelFormatter())
    root.addHandler(console)
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        file_handler = logging.FileHandler(log_file, encoding="utf-8")
        file_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(file_handler)


class _LevelFormatter(logging.Formatter):
    """The message alone, with the level in front of it from WARNING up."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"{record.levelname.lower()}: {text}" if record.levelno >= logging.WARNING else text
