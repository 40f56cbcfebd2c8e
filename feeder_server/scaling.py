"""`--workers auto`: measures a node, asks autoscale.py how many workers are enough, and starts or ends them.

All have their place in `dispatch` and `supervisor` from the beginning; those that aren't wanted are asleep there.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import Any

from feeder_server.autoscale import Autoscale, Measured
from feeder_server.dispatch import Dispatch
from feeder_server.supervisor import Supervisor
from feeder_server.work import Action, Send, Tell
from feeder_wire import messages as m
from feeder_wire import worker_messages as w

log = logging.getLogger("feeder.node")

PERIOD = 0.5
"""Seconds between two looks."""
LEAST_SECONDS, LEAST_BATCHES, LONGEST_SECONDS = 9.0, 8, 60.0
"""What a decision is based on: three of the clients' pings and some batches, or of slow batches as many as come in a minute."""
SPARE = 1.3
"""How much memory there has to be for another worker, in terms of the largest one."""


class Scaling:
    """See the module.

    Args:
        dispatch: where the workers' places are.
        on: False: all are awake, and nothing is ever changed.
    """

    def __init__(self, dispatch: Dispatch, on: bool) -> None:
        self._dispatch = dispatch
        self._on = on
        self._autoscale = Autoscale()
        self._next = 0.0
        self._since: float | None = None  # measuring; None: the workers that are wanted aren't all there
        self._batches, self._worked = 0, 0.0  # at that time
        self._known: dict[bytes, int] = {}  # client -> milliseconds that it has waited, as it said last
        self._waited: dict[bytes, float] = defaultdict(float)  # seconds, since that time
        if on:
            dispatch.wake(1)

    def heard(self, client: bytes, waited_ms: int) -> None:
        """A client has said for how long its training has stood still."""
        if self._on:
            self._waited[client] += max(0, waited_ms - self._known.get(client, waited_ms)) / 1000
            self._known[client] = waited_ms

    def gone(self, client: bytes) -> None:
        """A client is gone."""
        self._known.pop(client, None)
        self._waited.pop(client, None)

    def look(self, supervisor: Supervisor, now: float) -> list[Action]:
        """Start and end workers, if it is time; to be called after `Dispatch.assign`."""
        if not self._on or now < self._next:
            return []
        self._next = now + PERIOD
        dispatch = self._dispatch
        if any(source.kind == "stream" for source in dispatch.sources):
            # Its parts are shared out at the beginning, and nobody else has a part.
            self._on = False
            log.info("all %d workers are started: a stream is divided among them once and for all", len(dispatch.slots))
            return self._resize(len(dispatch.slots), supervisor, now)
        out: list[Action] = []
        if all(source.exclusive for source in dispatch.sources):
            if self._autoscale.limit(1):
                log.info("one worker from now on: no other may serve")
                out += self._resize(1, supervisor, now)
        elif (why := self._decide(supervisor, now)) is not None:
            log.info("%s", why)
            out += self._resize(self._autoscale.wanted, supervisor, now)
        return out + self._put_to_sleep(supervisor, now)

    def _decide(self, supervisor: Supervisor, now: float) -> str | None:
        dispatch = self._dispatch
        ready = sum(slot.ready and bool(slot.serves) for slot in dispatch.slots)
        if ready != self._autoscale.wanted:
            self._since = None
            return None
        if self._since is None:
            self._measure_anew(now)
        assert self._since is not None
        seconds, batches = now - self._since, dispatch.made_batches - self._batches
        if seconds < LEAST_SECONDS or (batches < LEAST_BATCHES and seconds < LONGEST_SECONDS):
            return None
        found = Measured(seconds, max(self._waited.values(), default=0.0), batches, dispatch.made_seconds - self._worked)
        self._measure_anew(now)
        if not batches:  # nobody trains, or a batch takes more than a minute
            return None
        return self._autoscale.decide(found, self._most(supervisor), now)

    def _measure_anew(self, now: float) -> None:
        self._since = now
        self._batches, self._worked = self._dispatch.made_batches, self._dispatch.made_seconds
        self._waited.clear()

    def _most(self, supervisor: Supervisor) -> int:
        """So many fit on this machine: into its cores, and as far as it can be told into its memory."""
        cores, wanted = len(self._dispatch.slots), self._autoscale.wanted
        pids = [pid for slot in range(cores) if (pid := supervisor.pid(slot)) is not None]
        room = room_for(pids)
        return cores if room is None else max(wanted, min(cores, wanted + room))

    def _resize(self, wanted: int, supervisor: Supervisor, now: float) -> list[Action]:
        self._since = None
        dispatch = self._dispatch
        dispatch.wake(wanted)
        supervisor.wake(wanted, now)
        told = [s for s in dispatch.sessions.values() if s.opened and dispatch.sources[s.source].kind == "indexed"]
        return [Send(s.client, m.Workers(s.id, dispatch.workers_of(s.source))) for s in told]

    def _put_to_sleep(self, supervisor: Supervisor, now: float) -> list[Action]:
        """End those that aren't wanted and have nothing left to do."""
        asleep = list(enumerate(self._dispatch.slots))[self._dispatch.awake :]
        ended = [number for number, slot in asleep if not slot.jobs and supervisor.let_go(number, now, told=slot.ready)]
        return [Tell(number, w.Stop()) for number in ended if self._dispatch.slots[number].ready]


def room_for(pids: list[int]) -> int | None:
    """How many more processes like the largest of these fit into memory; None: that can't be told (psutil isn't there)."""
    try:
        import psutil  # an extra, and slow to import
    except ImportError:
        return None
    try:
        largest = max((_own_bytes(pid, psutil) for pid in pids), default=0)
        return int(psutil.virtual_memory().available // (SPARE * largest)) if largest else None
    except (psutil.Error, OSError, RuntimeError) as e:
        log.debug("how much memory there is can't be told: %s", e)
        return None


def _own_bytes(pid: int, psutil: Any) -> int:
    """What a process would give back if it ended; 0: it has ended."""
    try:
        return int(psutil.Process(pid).memory_full_info().uss)
    except psutil.NoSuchProcess:
        return 0
    except (psutil.Error, OSError, RuntimeError):  # macOS tells that only to some, and not every Windows knows the call
        return int(psutil.Process(pid).memory_info().rss)
