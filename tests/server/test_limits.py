"""The limit of descriptors goes up as far as it may, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.serving import posix_signals

CODE = """
import resource
from feeder_server.limits import allow_many_connections
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
allow_many_connections()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@posix_signals
@pytest.mark.parametrize(("soft", "hard"), [(64, 512), (512, 512)])
def test_as_far_as_it_may(soft: int, hard: int) -> None:
    done = subprocess.run([sys.executable, "-c", CODE.format(soft=soft, hard=hard)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [str(hard), str(hard)]
