"""How many cores there are for this process, and how many workers that makes. Light, see early_workers.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from feeder_wire.words import AUTO


def usable_cores() -> int:
    """Cores that this process may use: affinity, and in a container its quota."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        cores: int = os.process_cpu_count() or 1
    elif sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return max(1, cores)


def resolve_workers(given: Any) -> tuple[Any, bool]:
    """(how many workers there may be, whether to begin with one), for a number, ``"auto"``, or None: all usable cores."""
    return (usable_cores(), given == AUTO) if given in (None, AUTO) else (given, False)
