"""Measures how long processes take to start on this Windows, as ratios to the least that any of them needs: NumPy and pyzmq.

Runs in the Windows python.exe (`python dev.py test-windows --start`); on a real Windows: `py tests\\windows\\start.py`. Medians.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMES = 3
DATA = """
import numpy as np
class Data:
    def __len__(self): return 100
    def __getitem__(self, i): return np.full((64, 64), i, np.float32)
"""
FIRST_BATCH = """
import sys
from feeder_client import FeederClient
with FeederClient.local(sys.argv[1], workers=int(sys.argv[2])) as client:
    client[0]
"""


def seconds(*arguments: str) -> float:
    """Seconds that python.exe takes with these arguments, from its start to its end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data.py")
        data.write_text(DATA, encoding="utf-8")
        target = f"{data}:Data"
        measured = {
            "import numpy, zmq": ("-c", "import numpy, zmq"),
            "no import": ("-c", "pass"),
            "import of a worker": ("-c", "import feeder_server.worker"),
            "import of a client": ("-c", "import feeder_client"),
            "feeder-server --version": ("-m", "feeder_server.cli", "--version"),
            **{f"first batch, {n} workers, and the end": ("-c", FIRST_BATCH, target, str(n)) for n in (1, 4)},
        }
        unit = 0.0
        for name, arguments in measured.items():
            seconds(*arguments)  # what is read for the first time
            found = statistics.median(seconds(*arguments) for _ in range(TIMES))
            unit = unit or found
            print(f"{name:<36} {found:6.2f} s {found / unit:6.1f}", flush=True)


if __name__ == "__main__":
    main()
