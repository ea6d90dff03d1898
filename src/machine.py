"""Where a result was measured, and how busy that machine was; of the standard library alone."""

import datetime
import os
import platform
import re
import time
from pathlib import Path


def environment() -> dict[str, object]:
    """Return date, processor, cores, system and Python version."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", info.read_text() if info.is_file() else "", re.MULTILINE)
    return {"date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "cpu": model[1] if model else platform.processor(), "cores": os.cpu_count(), "system": platform.platform(),
            "python": platform.python_version()}


def busy_seconds() -> float:
    """Return the processor time that all processes of the machine have used, stolen time included, over all cores.

    From Linux's /proc/stat, proc_stat(5).

    Raises:
        OSError: there is no /proc/stat.
    """
    user, nice, system, _, _, irq, softirq, steal = (int(n) for n in Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def busy_cores(seconds: float = 1.0) -> float:
    """Watch the machine for some seconds and return how many cores were busy on average.

    The load average would still tell of a program that ended a minute ago. It is what is left where there is no
    /proc/stat.
    """
    try:
        busy, began = busy_seconds(), time.perf_counter()
        time.sleep(seconds)
        return (busy_seconds() - busy) / (time.perf_counter() - began)
    except OSError:
        return os.getloadavg()[0]
