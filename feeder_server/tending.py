"""The part of `node.Node` that looks after its workers: those that can't load, that die, that take too long, whose copies disagree.

Most of it is put right by others (supervisor.py starts a process anew, dispatch.py gives its work to another worker). Here it is decided
when a node can't go on, and with which words.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence

from feeder_server.config import ServeConfig
from feeder_server.crew import Crew
from feeder_server.dispatch import Dispatch
from feeder_server.folders import Folders
from feeder_server.outcomes import Outcomes
from feeder_server.overdue import Overdue
from feeder_server.supervisor import Lost, Supervisor
from feeder_server.work import Action
from feeder_wire import messages as m
from feeder_wire import worker_messages as w
from feeder_wire.errors import DivergentSource, FeederError, WorkerCrashed, rebuild

log = logging.getLogger("feeder.node")


class Tending(ABC):
    """See the module. What is only named here, `Node` has."""

    dispatch: Dispatch
    _crew: Crew
    _folders: Folders
    _outcomes: Outcomes

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._supervisor: Supervisor | None = None
        self._fatal: FeederError | None = None
        self._fatal_remote = m.Goodbye("", "")
        self._load_errors: dict[int, str] = {}  # slot -> why its last worker could not load a source
        self._given_up = 0
        self._next_overdue = 0.0
        self._overdue = Overdue(config.batch_timeout) if config.batch_timeout is not None else None
        self._sentenced: dict[int, int] = {}  # slot -> the task that its worker was killed for

    @abstractmethod
    def _act(self, actions: Sequence[Action]) -> None: ...

    def _say_outcomes(self) -> None:
        diverged = self._outcomes.say()
        if diverged is not None and self._config.on_divergence == "error" and self._fatal is None:
            self._fatal = DivergentSource(diverged)
            self._fatal_remote = m.Goodbye("DivergentSource", diverged)

    def _load_failed(self, slot: int, report: w.LoadFailed) -> None:
        source = self.dispatch.sources[report.source]
        error = rebuild(report.error, f"source {source.name!r}" if len(self.dispatch.sources) > 1 else "")
        if source.kind:
            # Others have loaded it: this is one worker's trouble (a file that is gone now). It ends, and is replaced.
            log.warning("worker %d could not load it: %s", slot, error)
            self._load_errors[slot] = str(error)
        elif self._fatal is None:
            self._fatal = error
            self._fatal_remote = m.Goodbye(report.error.kind, str(error), report.error.builtins)

    def _look_at_workers(self, now: float) -> None:
        assert self._supervisor is not None
        if self._overdue is not None and now >= self._next_overdue:
            self._next_overdue = now + self._overdue.period
            self._end_overdue(self._overdue, now)
        for lost in self._supervisor.poll(now):
            # Its last words may still be in the socket: they were taken in before this, in the same turn or an earlier one.
            self._crew.gone(lost.slot)
            task = self._folders.last_task(lost.slot, lost.generation)
            # One that was killed may have come to its next task just before, which is not to blame.
            task = self._sentenced.pop(lost.slot, task)
            given_up = self.dispatch.given_up
            self._act(self.dispatch.worker_lost(lost.slot, lost.last_words, task))
            if self.dispatch.given_up > given_up:
                self._supervisor.excuse()  # the next batch may be as bad, and has a right to its tries
        hopeless = self._supervisor.hopeless()
        if len(hopeless) > self._given_up and self._fatal is None:
            self._give_up(hopeless)

    def _end_overdue(self, overdue: Overdue, now: float) -> None:
        assert self._supervisor is not None
        slots = self.dispatch.slots
        steps = {n: self._folders.step(n, slot.generation) for n, slot in enumerate(slots) if slot.jobs}
        for number, task in overdue.look(slots, steps, now):
            why = f"killed, for {self.dispatch.describe(number, task)} took longer than {overdue.timeout:g} s (--batch-timeout)"
            if self._supervisor.end(number, why):
                self._sentenced[number] = task

    def _give_up(self, hopeless: list[Lost]) -> None:
        self._given_up = len(hopeless)
        worst = hopeless[-1]
        text = f"worker {worst.slot}: {self._load_errors.get(worst.slot) or worst.last_words}"
        slots = {lost.slot for lost in hopeless}
        # Any worker makes any item; but what one worker has of a stream nobody else has, and its end would never come.
        awake = frozenset(range(self.dispatch.awake))
        if any(source.slots & awake <= slots or (source.kind != "indexed" and source.slots & slots) for source in self.dispatch.sources):
            self._fatal = WorkerCrashed(text)
            self._fatal_remote = m.Goodbye("WorkerCrashed", text)
        else:
            log.error("going on with %d of %d workers. %s", len(awake - slots), len(awake), text)
