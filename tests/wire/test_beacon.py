"""A beacon tells what a worker was at, also after it was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from feeder_wire import beacon

WORKER = """
import sys
from feeder_wire.beacon import Beacon
light = Beacon(sys.argv[1], 3, 7)
light.mark(41)
light.mark(42)
print("at it", flush=True)
sys.stdin.read()
"""


def test_the_last_task_is_known_after_a_kill(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline().strip() == b"at it"
        worker.kill()
    assert beacon.read(tmp_path, 3, 7) == 42


def test_a_fresh_one_is_idle(tmp_path: Path) -> None:
    light = beacon.Beacon(tmp_path, 0, 1)
    assert beacon.read(tmp_path, 0, 1) == beacon.IDLE
    light.close()


def test_largest_task_number(tmp_path: Path) -> None:
    light = beacon.Beacon(tmp_path, 0, 1)
    light.mark(2**63)
    light.close()
    assert beacon.read(tmp_path, 0, 1) == 2**63


def test_what_is_not_there_is_unknown(tmp_path: Path) -> None:
    assert beacon.read(tmp_path, 0, 1) is None
    (tmp_path / "beacon-0-2").write_bytes(b"abc")  # died while it made the file
    assert beacon.read(tmp_path, 0, 2) is None


def test_remove(tmp_path: Path) -> None:
    beacon.Beacon(tmp_path, 0, 1).close()
    beacon.remove(tmp_path, 0, 1)
    beacon.remove(tmp_path, 0, 1)
    assert beacon.read(tmp_path, 0, 1) is None


def test_steps_of_a_task(tmp_path: Path) -> None:
    """Each timed step has another number, over all tasks, so that two looks tell whether it goes on."""
    light = beacon.Beacon(tmp_path, 0, 1)
    assert beacon.read_step(tmp_path, 0, 1) == (beacon.IDLE, beacon.UNTIMED)
    seen = []
    for task in (5, 6):
        light.mark(task)
        seen.append(beacon.read_step(tmp_path, 0, 1))
        light.step(timed=False)
        assert beacon.read_step(tmp_path, 0, 1) == (task, beacon.UNTIMED)
        light.step(timed=True)
        seen.append(beacon.read_step(tmp_path, 0, 1))
        assert beacon.read(tmp_path, 0, 1) == task
    assert len(set(seen)) == 4
    assert not {None, (5, beacon.UNTIMED), (6, beacon.UNTIMED)} & set(seen)
    light.mark(beacon.IDLE)
    assert beacon.read_step(tmp_path, 0, 1) == (beacon.IDLE, beacon.UNTIMED)
    light.close()
