"""Workers that are started before there is a node: handed over once each, and gone when nobody asks for them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from feeder_server import launching
from feeder_server.early_workers import MOST, EarlyWorkers
from feeder_server.launching import worker_command, worker_environment, worker_options

ECHO = "import os, sys; print(sys.stdin.readline().strip(), os.environ['OMP_NUM_THREADS'])"


@pytest.fixture(autouse=True)
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(launching, "BOOT", ECHO)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """All processes that were started."""
    found: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        found.append(popen(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    yield found
    for process in found:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def spawn(workers: EarlyWorkers) -> subprocess.Popen[bytes]:
    """As the supervisor does."""
    return workers.spawn(worker_command(), **worker_options(worker_environment(1, False)))


def said(process: subprocess.Popen[bytes], word: str) -> list[str]:
    """What it makes of a set-up."""
    out, _ = process.communicate(word.encode() + b"\n", timeout=60)
    assert process.returncode == 0
    return out.decode().split()


def test_each_is_handed_over_once_and_then_there_are_new_ones(started: list[subprocess.Popen[bytes]]) -> None:
    workers = EarlyWorkers(2, 3, False)
    early = [spawn(workers), spawn(workers)]
    assert {process.pid for process in early} == {process.pid for process in started}
    late = spawn(workers)
    assert [said(process, "hello") for process in (*early, late)] == [["hello", "3"], ["hello", "3"], ["hello", "1"]]
    assert len(started) == 3
    workers.close()


def test_those_that_nobody_asked_for_are_gone_after_close(started: list[subprocess.Popen[bytes]]) -> None:
    workers = EarlyWorkers(3, 1, True)
    taken = spawn(workers)
    workers.close()
    workers.close()
    assert sorted(process.poll() is None for process in started) == [False, False, True]
    assert said(taken, "hello")[0] == "hello"


@pytest.mark.parametrize(
    ("count", "threads", "gpu"), [(0, 1, False), (-3, 1, False), ("4", 1, False), (2.0, 1, False), (2, "all", False), (2, 1, None)]
)
def test_nonsense_starts_nothing(count: Any, threads: Any, gpu: Any, started: list[subprocess.Popen[bytes]]) -> None:
    workers = EarlyWorkers(count, threads, gpu)
    workers.close()
    assert not started
    assert said(spawn(workers), "hello") == ["hello", "1"]


def test_a_number_that_is_a_slip_does_not_fill_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def refuse(*arguments: Any, **options: Any) -> None:
        asked.append(arguments)
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    workers = EarlyWorkers(1_000_000, 1, False)
    with pytest.raises(OSError, match="no more processes"):
        spawn(workers)
    workers.close()
    assert len(asked) == MOST
