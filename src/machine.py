"""What every measured result says about where it was measured; of the standard library alone."""

import datetime
import os
import platform
import re
from pathlib import Path


def environment() -> dict[str, object]:
    """Return date, processor, cores, system and Python version."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", info.read_text() if info.is_file() else "", re.MULTILINE)
    return {"date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "cpu": model[1] if model else platform.processor(), "cores": os.cpu_count(), "system": platform.platform(),
            "python": platform.python_version()}
