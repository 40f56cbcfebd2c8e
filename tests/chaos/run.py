"""A chaos run: starts everything, injects the plan's faults as batches come, watches, winds up, and says what came out.

    start ─▶ watch: journals to books, faults when due, what was interrupted started again ... ─▶ wind up ─▶ Outcome

One loop, no threads of its own. It polls: what it looks at are files and processes.
"""

from __future__ import annotations

import heapq
import itertools
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from feeder_server.status import Visitor
from feeder_wire.directories import parents, sweep
from feeder_wire.sizes import parse_size
from tests import leaks
from tests.chaos.cast import Node, Trainer, cast
from tests.chaos.injecting import can, inject
from tests.chaos.plan import Step, World
from tests.serving import ON_WINDOWS, arena_bytes, arenas, workers_of

POLL_SECONDS = 0.05
STALL_SECONDS = 60.0
"""Longer than this without a batch, plus what faults took, is a stall without a cause. Restarts on a busy machine are well below."""
NOTED_SECONDS = 1.0
TOLD_SECONDS = 10.0
WIND_UP_SECONDS = 180.0
TAIL_LINES = 40


LEASE_SECONDS = 60.0  # a lease is 15 s
SLACK_BYTES = 32 << 20
"""A batch is allowed whatever the cap, of each worker one; and blocks of workers that died go only when they are given back."""


def _busy(node: Node) -> dict[str, int]:
    """What a node still has to do, or to remember."""
    with Visitor(node.endpoint, timeout=30) as visitor:
        report = visitor.look()
    return {name: value for name in ("clients", "queued", "under_way") if (value := getattr(report, name))}


class Broken(Exception):
    """The run can't go on: what happened."""


@dataclass(slots=True)
class Outcome:
    """What came out of a run."""

    seed: int
    seconds: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    delivered: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    longest_stall: float = 0.0
    restarts: Counter[str] = field(default_factory=Counter)
    left: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    logs: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.wrong or any(self.left.values()) or self.problems)


class Run:
    """See the module.

    Args:
        world: who there is.
        steps: the plan.
        folder: an empty one for everything that the run writes.
        say: is given each line of progress.
        sabotage: see `cast`.
    """

    def __init__(self, world: World, steps: Iterator[Step], folder: Path, say: Callable[[str], None], sabotage: str = "") -> None:
        self._world, self._steps, self._say = world, steps, say
        self._folder = folder
        (folder / "tmp").mkdir()
        self._private = leaks.PrivateFolders.make(folder / "tmp")
        self._before = leaks.snapshot(self._private)
        self.nodes, self.trainers = cast(world, folder, sabotage)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._windows: list[tuple[float, float]] = []  # when faults were at work
        self._delivered = 0
        self.outcome = Outcome(world.seed)
        self._began = time.monotonic()

    def run(self, seconds: float) -> Outcome:
        """All of it; `seconds` of faults, and what winding up takes."""
        outcome = self.outcome
        try:
            for node in self.nodes:
                if node.number not in self._world.absent:
                    node.start()
            self._poll_until(lambda: all(node.up for node in self.nodes if node.wanted), 120, "the nodes are ready")
            for trainer in self.trainers:
                trainer.start()
            self._disturb(time.monotonic() + seconds)
            self._wind_up()
        except (Broken, AssertionError) as e:
            outcome.problems.append(str(e))
            outcome.logs = self._collect_logs()
        finally:
            self._clear_away()
        for trainer in self.trainers:
            book = trainer.book
            outcome.lost, outcome.doubled, outcome.wrong = (
                outcome.lost + book.lost,
                outcome.doubled + book.doubled,
                outcome.wrong + book.wrong,
            )
            outcome.delivered += book.delivered
            outcome.problems += book.notes
            outcome.restarts["trainers"] += max(0, trainer.starts - 1)
        outcome.restarts["nodes"] = sum(max(0, node.starts - 1) for node in self.nodes)
        outcome.seconds = time.monotonic() - self._began
        if not outcome.ok and not outcome.logs:
            outcome.logs = self._collect_logs()
        return outcome

    @property
    def _processes(self) -> list[Node | Trainer]:
        return [*self.nodes, *self.trainers]

    # ---------------------------------------------------------------------------------------------------------- faults

    def _disturb(self, until: float) -> None:
        step = next(self._steps)
        counted = 0
        while time.monotonic() < until:
            self._look()
            if self._delivered - counted >= step.after and can(step, self.nodes, self.trainers):
                self._inject(step)
                counted, step = self._delivered, next(self._steps)
            time.sleep(POLL_SECONDS)

    def _inject(self, step: Step) -> None:
        now = time.monotonic()
        self._say(f"[{now - self._began:6.1f} s, {self._delivered} batches] {step}")
        self.outcome.faults[step.kind] += 1
        later = inject(step, self.nodes, self.trainers)
        self._windows.append((now, time.monotonic() + step.seconds))
        if later is not None:
            heapq.heappush(self._due, (time.monotonic() + step.seconds, next(self._numbers), later))

    def _do_what_is_due(self, everything: bool = False) -> None:
        while self._due and (everything or self._due[0][0] <= time.monotonic()):
            heapq.heappop(self._due)[2]()

    # -------------------------------------------------------------------------------------------------------- watching

    def _look(self) -> None:
        self._do_what_is_due()
        for trainer in self.trainers:
            self._delivered += trainer.read(NOTED_SECONDS)
            for begin, end in trainer.gaps:
                excused = self._stalled(trainer, begin, end)
                if end - begin > TOLD_SECONDS:
                    self._say(f"{trainer} has waited for {end - begin:.1f} s; faults explain {excused:.1f} s")
            trainer.gaps.clear()
            if trainer.up and trainer.left is None:
                self._stalled(trainer, trainer.since, time.monotonic())
            if trainer.book.lost or trainer.book.doubled or trainer.book.wrong:
                raise Broken(f"{trainer} got something else than it should")
            if trainer.failed:
                trainer.read_all(NOTED_SECONDS)
                if trainer.failed:
                    raise Broken(f"{trainer} has ended by itself with {trainer.running and trainer.running.popen.poll()}")
        for node in self.nodes:
            if node.failed:
                raise Broken(f"{node} has ended by itself with {node.running and node.running.popen.poll()}")

    def _stalled(self, trainer: Trainer, begin: float, end: float) -> float:
        """Raises if it has waited too long; returns how much of that time faults were at work, of each its own."""
        self.outcome.longest_stall = max(self.outcome.longest_stall, end - begin)
        excused = sum(max(0.0, min(end, until) - max(begin, since)) for since, until in self._windows)
        if end - begin > STALL_SECONDS + excused:
            raise Broken(f"{trainer} has waited for {end - begin:.0f} s, and faults explain {excused:.0f} s of that")
        return excused

    def _poll_until(self, condition: Callable[[], bool], seconds: float, what: str, pause: float = POLL_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            self._look()
            if time.monotonic() > deadline:
                raise Broken(f"not within {seconds:g} s: {what}")
            time.sleep(pause)

    # -------------------------------------------------------------------------------------------------------- the end

    def _wind_up(self) -> None:
        """Everything works again; the trainers end at the end of their passes, the nodes after them."""
        self._say("no more faults; winding up")
        self._do_what_is_due(everything=True)
        for trainer in self.trainers:
            for proxy in trainer.proxies:
                proxy.restore()
            trainer.tell_to_end()
        self._poll_until(lambda: all(trainer.done for trainer in self.trainers), WIND_UP_SECONDS, "the trainers end")
        for trainer in self.trainers:
            assert trainer.running is not None
            self._delivered += trainer.read_all(NOTED_SECONDS)
            trainer.wanted = False
            trainer.book.end()
            code = trainer.running.wait()
            if code:
                raise Broken(f"{trainer} has ended with {code}")
            for what, found in (trainer.left or {}).items():
                self.outcome.left.setdefault(what, []).extend(f"{trainer}: {one}" for one in found)
        sweep(parents())  # of those that were killed and did not come back
        self._look_into_nodes()
        for node in self.nodes:
            if node.wanted:
                self._end_node(node)
        self.outcome.left["folders"] = [str(path) for path in sorted(arenas())]

    def _look_into_nodes(self) -> None:
        """They have forgotten all clients, at the latest when the leases of those that were killed have run out, and their blocks fit."""
        for node in self.nodes:
            if node.wanted:
                self._poll_until(lambda node=node: node.up, LEASE_SECONDS, f"{node} is up")  # type: ignore[misc]
                said = f"{node} has no clients and nothing to do; at first: {_busy(node)}"
                self._poll_until(lambda node=node: not _busy(node), LEASE_SECONDS, said, pause=0.5)  # type: ignore[misc]
        allowed = sum(parse_size(self._world.node_memory) + SLACK_BYTES for node in self.nodes if node.wanted)
        if arena_bytes() > allowed:
            self.outcome.left["blocks"] = [f"{arena_bytes()} bytes, where {allowed} are allowed"]

    def _end_node(self, node: Node) -> None:
        assert node.running is not None
        node.end("SIGINT" if ON_WINDOWS else "SIGTERM")
        code = node.running.popen.returncode
        if code:
            raise Broken(f"{node} was stopped and has ended with {code}")

    def _clear_away(self) -> None:
        """After this nothing of the run is there; what should not have been is noted."""
        for trainer in self.trainers:
            for proxy in trainer.proxies:
                proxy.close()
        failed = bool(self.outcome.problems)
        running = [one.running for one in self._processes if one.running is not None]
        for process in running:
            if process.popen.poll() is None:
                process.popen.kill()
                process.wait()
        if failed:
            sweep(parents())
        found = leaks.wait_for_clean(self._before, self._private, 10.0)
        if found and not failed:
            left = self.outcome.left
            left.setdefault("threads", []).extend(thread.name for thread in found.threads)
            left["processes"] = [leaks.describe(process) for process in found.processes]
            left.setdefault("files", []).extend(found.files)
            left.setdefault("folders", []).extend(map(str, found.folders))
        leaks.kill(found.processes)
        if self._private.shared is not None:
            shutil.rmtree(self._private.shared, ignore_errors=True)

    def _collect_logs(self) -> str:
        """The last lines of everybody, where possible with what each thread is at."""
        texts = []
        for one in self._processes:
            if one.running is None:
                continue
            if sys.platform != "win32" and one.running.popen.poll() is None:
                workers = list(workers_of(one.running.pid))
                one.running.popen.send_signal(signal.SIGCONT)
                one.running.popen.send_signal(signal.SIGABRT)  # faulthandler tells where its threads are
                one.running.popen.wait(30)
                one.running.wait()
                texts.append(f"workers of {one}: {workers}")
            lines = one.running.stderr.splitlines()
            texts.append(
                f"--- last lines of {one}, which has ended with {one.running.popen.poll()}\n" + "\n".join(lines[-TAIL_LINES * 2 :])
            )
        return "\n".join(texts)
