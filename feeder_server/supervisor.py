"""Start, watch, restart and stop the worker processes. Knows no socket.

    start() ─▶ one thread per worker: Popen, write the set-up, then copy its output to the log, line by line
    poll()  ─▶ Lost (a process ended) ... and after a back-off a new one in its place, with the next generation
    stop()  ─▶ wait for those that were asked to end, end their pipe, kill the rest

All workers start at once: on Windows a process start takes half a second, and one after another sixteen of them take eight. The
thread per worker also means that a worker never blocks on a full output pipe. A worker that keeps dying without having made a
batch is started ever more slowly, and after some in a row no more: restart without a budget is a fork bomb.
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from feeder_server.bond import Job
from feeder_server.launching import worker_command, worker_environment, worker_options

log = logging.getLogger("feeder.worker")

MAX_CRASHES = 5
FIRST_DELAY = 0.25
LONGEST_DELAY = 10.0
TAIL_LINES = 20
LONGEST_LINE = 16 * 1024  # bytes
LAST_LINES_SECONDS = 1.0
SLICE = 0.1
LEAVE_SECONDS = 3.0  # for one that isn't needed any more
KILL_SECONDS = 5.0  # for the system to end a killed process
_WINDOWS_CODES = {
    0xC0000005: "access violation",
    0xC000001D: "illegal instruction",
    0xC0000135: "a DLL is missing",
    0xC0000142: "a DLL could not be loaded",
    0xC0000374: "heap corruption",
    0xC00000FD: "stack overflow",
    0xC0000017: "out of memory",
    0xC000013A: "Ctrl-C",
    0xC0000409: "abort",
}


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker process in `slot` has ended. `why`: exit code or signal by name; `tail`: the last lines it printed."""

    slot: int
    generation: int
    why: str
    tail: tuple[str, ...]

    @property
    def last_words(self) -> str:
        """Both, for people."""
        tail = "\n".join(f"    {line:.500}" for line in self.tail[-8:])
        return f"{self.why}; its last lines were:\n{tail}" if tail else self.why


@dataclass(slots=True)
class _Place:
    generation: int = 0
    process: subprocess.Popen[bytes] | None = None
    starting: threading.Thread | None = None
    failure: str = ""  # the process could not even be started
    loaded: bool = False  # the process has its sources
    crashes: int = 0  # in a row, without a batch
    failed_starts: int = 0  # in a row, of workers that died before they had their sources
    why: str = ""  # of the last one
    sentence: str = ""  # why we have killed this one
    start_at: float | None = 0.0  # when to start the next one; None: one is there, or none is wanted
    leave_by: float | None = None  # it isn't needed any more: when its patience with it ends
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))


def describe_exit(code: int) -> str:
    """An exit status in words: signal or code by name."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    if (code & 0xFFFFFFFF) in _WINDOWS_CODES:
        return f"exit code 0x{code & 0xFFFFFFFF:08X} ({_WINDOWS_CODES[code & 0xFFFFFFFF]})"
    return f"exit code {code}"


class Supervisor:
    """The worker processes of a node. Its methods are called by the node's loop only.

    Args:
        slots: how many workers.
        setup: makes the set-up of the worker in a slot (JSON-able), given slot and generation.
        threads: see `worker_environment`.
        gpu: see `worker_environment`.
        max_crashes: of workers in one slot, in a row and without a batch, before it is given up.
        awake: how many there are at first; the others are started by `wake`.
        spawn: starts a process: a private server has some that it started early, see early_workers.py; a test passes its own.
    """

    def __init__(
        self,
        slots: int,
        setup: Callable[[int, int], dict[str, Any]],
        *,
        threads: int = 1,
        gpu: bool = False,
        max_crashes: int = MAX_CRASHES,
        awake: int | None = None,
        spawn: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
    ) -> None:
        self._places = [_Place() for _ in range(slots)]
        self._awake = slots if awake is None else awake
        for place in self._places[self._awake :]:
            place.start_at = None
        self._setup = setup
        self._env = worker_environment(threads, gpu)
        self._max_crashes = max_crashes
        self._spawn = spawn
        self._job = Job()
        self._ending = False
        self.restarts = 0

    def poll(self, now: float) -> list[Lost]:
        """Start what is due, report what has ended. Never blocks."""
        lost = []
        for slot, place in enumerate(self._places):
            if place.leave_by is not None and now > place.leave_by and place.process is not None:
                place.process.kill()
            ended = place.process is not None and place.process.poll() is not None
            if (ended or place.failure) and not self._ending:
                lost.append(self._reap(slot, place, now))
            if place.start_at is not None and now >= place.start_at and not self._is_hopeless(place) and not self._ending:
                self._start(slot, place)
        return lost

    def loaded(self, slot: int) -> None:
        """The worker in `slot` has loaded its sources: if it dies now, it is not for want of them."""
        self._places[slot].loaded = True

    def progressed(self, slot: int) -> None:
        """The worker in `slot` made a batch: whatever killed its predecessors, it is not hopeless."""
        place = self._places[slot]
        place.loaded, place.crashes, place.failed_starts = True, 0, 0

    def excuse(self) -> None:
        """A batch has killed its share of workers and was given up: that says nothing about the next one."""
        for place in self._places:
            if not place.failed_starts:
                place.crashes = 0

    def end(self, slot: int, why: str) -> bool:
        """Kill the worker in `slot`; `poll` reports it, with `why`. False: there is none that could be."""
        place = self._places[slot]
        if place.process is None or place.process.poll() is not None or place.sentence:
            return False
        place.sentence = why
        place.process.kill()
        return True

    def wake(self, count: int, now: float) -> None:
        """The first `count` slots have a worker from now on. `let_go` ends those of the others, when they have nothing left to do."""
        for place in self._places[self._awake : count]:
            if place.process is None and (place.starting is None or not place.starting.is_alive()):
                place.start_at = now
        self._awake = count

    def let_go(self, slot: int, now: float, *, told: bool) -> bool:
        """The worker in `slot` isn't needed any more. False: there is none that doesn't know it yet.

        `told`: it is told so by other means, and has a few seconds; else the end of its pipe tells it.
        """
        place = self._places[slot]
        place.start_at = None
        if place.process is None or place.leave_by is not None:
            return False
        place.leave_by = now + LEAVE_SECONDS
        if not told:
            _end_pipe(place.process)
        return True

    def hopeless(self) -> list[Lost]:
        """Slots whose workers died too often in a row; no more are started there."""
        found = []
        for slot, place in enumerate(self._places):
            if self._is_hopeless(place):
                why = f"{place.crashes} workers in a row died without having made a batch, the last one: {place.why}"
                found.append(Lost(slot, place.generation, why, tuple(place.tail)))
        return found

    def _is_hopeless(self, place: _Place) -> bool:
        return place.crashes >= self._max_crashes or place.failed_starts >= MAX_CRASHES

    def pid(self, slot: int) -> int | None:
        """Process id of the worker in `slot`."""
        process = self._places[slot].process
        return process.pid if process is not None else None

    def stop(self, grace_seconds: float, told: Collection[int] = ()) -> None:
        """End all workers: those in `told` were asked to and get `grace_seconds`, the others' pipe ends at once; the rest is killed."""
        self._ending = True
        deadline = time.monotonic() + grace_seconds
        # A worker that is still starting was not told, for there was nobody to tell: it exits when its pipe ends.
        for slot, place in enumerate(self._places):
            if slot not in told:
                _end_pipe(place.process)
        for process in self._running():
            _wait(process, deadline)
        self.kill()
        # The last lines are on the way; a child of user code may hold the output open, so they aren't waited for long.
        deadline = time.monotonic() + LAST_LINES_SECONDS
        for place in self._places:
            if place.starting is not None:
                place.starting.join(max(0.0, deadline - time.monotonic()))

    def kill(self) -> None:
        """End all workers now."""
        self._ending = True
        for place in self._places:
            while place.process is None and place.starting is not None and place.starting.is_alive():
                place.starting.join(0.01)  # it is just being started
        running = self._running()
        for process in running:
            process.kill()
        for process in running:
            process.wait(KILL_SECONDS)

    def _running(self) -> list[subprocess.Popen[bytes]]:
        return [p.process for p in self._places if p.process is not None and p.process.poll() is None]

    def _reap(self, slot: int, place: _Place, now: float) -> Lost:
        why = place.failure or place.sentence or describe_exit(place.process.returncode if place.process else 0)
        if place.starting is not None:
            place.starting.join(1)  # its last lines are on the way; a grandchild may hold the pipe open
        if place.leave_by is not None:
            place.process, place.failure, place.sentence, place.loaded, place.leave_by = None, "", "", False, None
            place.start_at = now if slot < self._awake else None  # it may be wanted again by now
            return Lost(slot, place.generation, why, ())
        # One that we have killed was in the middle of its work: no sign that the next one would die as well.
        place.crashes += not place.sentence
        place.failed_starts = 0 if place.loaded else place.failed_starts + 1
        place.loaded = False
        place.why = why
        self.restarts += 1
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** max(0, place.crashes - 1))
        if not self._is_hopeless(place):
            log.warning("worker %d ended: %s; a new one starts in %.2g s", slot, why, delay)
        place.process, place.failure, place.sentence, place.start_at = None, "", "", now + delay
        return Lost(slot, place.generation, why, tuple(place.tail))

    def _start(self, slot: int, place: _Place) -> None:
        place.generation += 1
        place.start_at = None
        place.tail.clear()
        setup = json.dumps(self._setup(slot, place.generation)).encode() + b"\n"
        place.starting = threading.Thread(target=self._attend, args=(slot, place, setup), name=f"feeder-worker-{slot}", daemon=True)
        place.starting.start()

    def _attend(self, slot: int, place: _Place, setup: bytes) -> None:
        try:
            process = self._spawn(worker_command(), **worker_options(self._env))
        except OSError as e:
            place.failure = f"could not be started: {e}"
            return
        place.process = process
        self._job.add(process)
        if self._ending:
            process.kill()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(setup)
            process.stdin.flush()
        except (OSError, ValueError):  # it died before it read, and poll() reports that; or stop() has closed the pipe
            pass
        with process.stdout as output:
            # In pieces: user code may print without end and without a newline.
            for line in iter(lambda: output.readline(LONGEST_LINE), b""):
                text = line.decode("utf-8", "backslashreplace").rstrip()
                place.tail.append(text)
                log.info("[worker %d] %s", slot, text)
        process.wait()
        _end_pipe(process)


def _wait(process: subprocess.Popen[bytes], deadline: float) -> None:
    """Wait for a process in short pieces: on Windows a second Ctrl-C is not seen before a wait is over."""
    while (left := deadline - time.monotonic()) > 0:
        try:
            process.wait(min(left, SLICE))
            return
        except subprocess.TimeoutExpired:
            pass


def _end_pipe(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None and process.stdin is not None:
        try:
            process.stdin.close()
        except OSError:  # it is gone, with something unwritten
            pass
