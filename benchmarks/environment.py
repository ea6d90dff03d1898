"""What every benchmark result says about where it was measured."""

import datetime
import os
import platform
import re
from pathlib import Path


def environment() -> dict[str, object]:
    """Return date, processor, cores, system and Python version."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {"date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "cpu": model[1] if model else platform.processor(), "cores": os.cpu_count(), "system": platform.platform(),
            "python": platform.python_version()}
