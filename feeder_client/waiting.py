"""The part of `core.Core` in which the training thread waits for a batch, or for one in the place of one that can't be had.

Under the lock of core.py, which is let go while it waits. Every wait ends: with the batch, with an error that says why there is none,
or with `close`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from feeder_client.credits import Credits
from feeder_client.options import Options
from feeder_client.order import Key, Order
from feeder_client.payload import Broken, Payload
from feeder_client.place import Mark
from feeder_client.position import Position
from feeder_client.roster import LongWait, Roster
from feeder_client.skips import Missing, Skipped, Skips, stand_ins
from feeder_client.stats import Counters
from feeder_client.stock import Stock, StreamStock
from feeder_wire.errors import BatchTimeout, ClosedError, FeederError
from feeder_wire.words import SINGLE

log = logging.getLogger("feeder.client")

SLICE = 0.2
"""Longest single wait: on Windows Ctrl-C is not seen inside one."""


class PassEnded(Exception):
    """A run of a stream is over."""


class Waiting:
    """See the module. Arguments as for `Core`."""

    def __init__(self, endpoints: list[str], options: Options) -> None:
        self.options = options
        self.roster = Roster(endpoints, options.connect_timeout, time.monotonic())
        self.wake: Callable[[], None] = lambda: None  # the receiver puts its own here
        self.closed = False
        self.num_batches: int | None = None
        self._fatal: FeederError | None = None
        self._cond = threading.Condition()
        self._credits = Credits(options.memory_bytes, options.prefetch)
        self._stock: Stock | None = None
        self._where: Position
        self._first: float | None = None
        self._waiting: LongWait | None = None  # what is under way
        self._awaited: list[Key] = []  # by the threads that sleep until they have come
        self._counted = Counters()
        self._skips = Skips(options.source, options.skip_budget) if options.skip_budget is not None else None
        self._in_run = 0  # batches of a stream's run that were taken

    def _await(self, key: Key, stock: Stock) -> Payload:
        wait = LongWait(f"{stock.describe(key)} of source {self.options.source!r}", time.monotonic())
        while (payload := stock.take(key)) is None:
            with self._standing_still(wait):
                slice_ = self._hedge(key, stock, wait)
                if stock.need(key) or self._credits.thin():
                    self.wake()
                self._awaited.append(key)
                try:
                    self._cond.wait(slice_)
                finally:
                    self._awaited.remove(key)
        self._took(wait, payload, stock)
        return payload

    def _hedge(self, key: Key, stock: Stock, wait: LongWait) -> float:
        """Ask a second node where the one that owes the batch is late. Returns how long to wait until the next look."""
        patience = stock.patience(key) if self.options.hedge else None
        if patience is None or any(node.outcome == SINGLE for node in self.roster.nodes):
            return SLICE
        left = patience - wait.seconds(time.monotonic())
        if left > 0:
            return min(SLICE, left)
        if stock.hedge(key):
            self.wake()
            self._counted.hedged += 1
            log.debug("%s is late: another server is asked for it too", wait.what)
        return SLICE

    def _sound(self, key: Key, mark: Mark | None, missing: Missing, order: Order, stock: Stock) -> Payload:
        """The batch, or what is handed out in its place."""
        skips = self._skips
        if skips is None:
            return self._await(key, stock)
        skips.enter(key[0])
        known = skips.known(key)
        payload = Broken(known, skippable=True) if known is not None else self._await(key, stock)
        while isinstance(payload, Broken) and payload.skippable:
            stream = isinstance(stock, StreamStock)
            self._counted.skipped += skips.add(None if stream else key, payload.error, order.length, order.position)
            if stream:  # whatever comes next
                self._where.handed_out(self._where.took(None), skipped=True)
                payload = self._await(key, stock)
            elif missing is Missing.PASS_OVER:
                self._where.handed_out(mark, skipped=True)
                self._report_at_end(order)
                raise Skipped
            else:
                payload = self._stand_in(key, payload, skips, stock)
        self._report_at_end(order)
        return payload

    def _stand_in(self, key: Key, broken: Broken, skips: Skips, stock: Stock) -> Payload:
        for other in stand_ins(key, self.num_batches):
            if skips.known(other) is not None:
                continue
            payload = self._await(other, stock)
            if not (isinstance(payload, Broken) and payload.skippable):
                return payload
            skips.note(other, payload.error)
        return Broken(broken.error)  # there is no batch at all

    def _report_at_end(self, order: Order) -> None:
        if self._skips is not None and order.complete:
            self._skips.report()

    def _sound_in_run(self, stock: StreamStock) -> Payload:
        """The next batch of a stream's run that can be had, or an error. Raises PassEnded."""
        while True:
            payload = self._await_in_run(stock)
            self._in_run += 1
            if self._skips is None or not (isinstance(payload, Broken) and payload.skippable):
                return payload
            mark = self._where.took(None)
            self._skips.enter(stock.last[0] if stock.last else 0)
            self._counted.skipped += self._skips.add(None, payload.error, None, self._in_run)
            self._where.handed_out(mark, skipped=True)

    def _await_in_run(self, stock: StreamStock) -> Payload:
        wait = LongWait(f"the next batch of source {self.options.source!r}", time.monotonic())
        while not (found := stock.take_in_run())[0]:
            with self._standing_still(wait):
                if self._credits.thin():
                    self.wake()
                self._cond.wait(SLICE)
        if found[1] is None:
            self._in_run = 0
            if self._skips is not None:
                self._skips.report()
            raise PassEnded
        self._took(wait, found[1], stock)
        return found[1]

    @contextmanager
    def _standing_still(self, wait: LongWait) -> Iterator[None]:
        self._check(wait)
        self._waiting = wait
        try:
            yield
        finally:
            self._waiting = None

    def _check(self, wait: LongWait) -> None:
        if self.closed:
            raise ClosedError("this feeder was closed while a batch was waited for")
        now = time.monotonic()
        self._raise_if_hopeless(now)
        for number in self._stock.give_up(self.roster.away(now)) if self._stock is not None else ():
            log.warning("this pass goes on without %s, and without what it had of the stream", self.roster.nodes[number].endpoint)
        timeout = self.options.batch_timeout
        if timeout is not None and wait.seconds(now) > timeout:
            raise BatchTimeout(f"{wait.what} did not come within {timeout:g} s: {self.roster.whereabouts(now)}")
        wait.say(now, self.roster)

    def _raise_if_hopeless(self, now: float) -> None:
        error = self._fatal or self.roster.hopeless(now, self._stock.missing() if self._stock is not None else ())
        if error is not None:
            raise error

    def _took(self, wait: LongWait, payload: Payload, stock: Stock) -> None:
        now = time.monotonic()
        counted = self._counted
        counted.reads_ahead = counted.reads_ahead or threading.current_thread() is not threading.main_thread()
        if self._first is None:
            self._first = now - wait.seconds(now)
        else:  # the first wait is the start-up, not the training
            counted.wait_seconds += wait.seconds(now)
        counted.elapsed_seconds = now - self._first
        counted.batches += not (self._skips is not None and isinstance(payload, Broken))
        counted.nbytes += payload.nbytes
        limit = self._credits.limit()
        # A waking receiver takes the GIL from the training, and the node's core: it fills up some places at once. It looks up by itself
        # when something arrives, and four times a second, so what is put off here never waits for long.
        if sum(stock.level) <= limit - max(1, limit // 4):
            self.wake()
