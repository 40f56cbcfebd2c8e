"""What the training thread and the receiver thread share. Decide under the lock, do the I/O outside.

    training thread                         core (lock, condition)                           receiver thread
    get(i) ─▶ order: which key is meant ─▶ window: what to ask ─── requests() ─────────────▶ sends Ask
           ◀─ open() outside the lock  ◀── store: key ─▶ payload ◀── arrived(), ended() ──── receives batches
                                           nodes: who is there ◀──── opened(), lost(), failed()

Every wait here ends: with the batch, with an error that says why there is none, or with `close`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from feeder_client.order import Key, Order
from feeder_client.payload import Broken, Payload
from feeder_client.stats import Stats
from feeder_client.window import Credits, Request, StreamWindow, Window
from feeder_wire import messages as m
from feeder_wire.errors import BatchTimeout, ClosedError, ConfigError, FeederError, NodeUnreachable, SourceError, rebuild

log = logging.getLogger("feeder.client")

SLICE = 0.2
"""Longest single wait: on Windows Ctrl-C is not seen inside one."""
FIRST_WORD_SECONDS = 10.0
"""A wait of this length is logged, and again each time it has doubled."""


@dataclass(slots=True)
class NodeState:
    """A node, as this client knows it."""

    endpoint: str
    since: float  # when the state began
    connected: bool = False
    opened: m.Opened | None = None
    error: FeederError | None = None
    progress: str = ""


@dataclass(slots=True)
class _Counted:
    """See `Stats`; changed with every batch, so no frozen thing."""

    batches: int = 0
    nbytes: int = 0
    wait_seconds: float = 0.0
    elapsed_seconds: float = 0.0
    compute_seconds: float = 0.0
    retries: int = 0
    reconnects: int = 0


class PassEnded(Exception):
    """A run of a stream is over."""


class Core:
    """See the module.

    Args:
        endpoints: of the nodes.
        source: its name, for messages.
        steps: batches of one epoch of a stream, or None.
        prefetch, memory_bytes, lookahead: see `Window`.
        connect_timeout: how long a node may be out of reach while nothing else serves.
        batch_timeout: longest wait for one batch, or None.
        rank, world_size: this trainer's share of an indexed source: batches rank, rank + world_size, ...
    """

    def __init__(
        self,
        endpoints: list[str],
        source: str,
        *,
        steps: int | None,
        prefetch: int | None,
        memory_bytes: int,
        lookahead: bool,
        connect_timeout: float,
        batch_timeout: float | None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        now = time.monotonic()
        self.source = source
        self.nodes = [NodeState(e, now) for e in endpoints]
        self.wake: Callable[[], None] = lambda: None
        self.closed = False
        self.fatal: FeederError | None = None
        self.stream = False
        self.num_batches: int | None = None
        self._steps, self._lookahead = steps, lookahead
        self._connect_timeout, self._batch_timeout = connect_timeout, batch_timeout
        self._rank, self._world_size = rank, world_size
        self._cond = threading.Condition()
        self._credits = Credits(memory_bytes, prefetch)
        self._order: Order | None = None
        self._version = -1
        self._window: Window = Window(self._credits, lookahead)
        self._tickets = StreamWindow(self._credits)
        self._store: dict[Key, Payload] = {}
        self._queue: deque[Payload | None] = deque()  # streams; None: the end of a run
        self._kept: dict[Key, Any] = {}  # batches that were looked at and may be asked for again
        self._cancel_below: int | None = None
        self._first: float | None = None
        self._counted = _Counted()
        self._waiting_stream = False

    # ------------------------------------------------------------------------------------------------- training thread

    def wait_open(self) -> m.Opened:
        """Wait until a node serves the source.

        Raises:
            FeederError: none can, and why.
        """
        said = _Said("a server")
        with self._cond:
            while True:
                for node in self.nodes:
                    if node.opened is not None:
                        return node.opened
                self._raise_if_hopeless()
                said.maybe(lambda: self._whereabouts())
                self._cond.wait(SLICE)

    def get(self, index: int) -> Any:
        """Batch `index`, as `Order` understands it. Waits.

        Raises:
            IndexError: there is no such batch.
            FeederError: it can't be had.
        """
        with self._cond:
            order = self._usable()
            key = order.ask(index)
            self._replan(order)
            if key in self._kept:
                batch = self._kept[key]
                self._prune(order)
                self.wake()
                return batch
            payload = self._wait_position() if self.stream else self._wait_key(key)
            self._account(payload)
            self._prune(order)
        batch = payload.open()
        with self._cond:
            if order.may_repeat(key):
                self._kept[key] = batch
        return batch

    def get_next(self) -> Any:
        """Streams without `steps`: the next batch of this run. Raises PassEnded at the end of a run."""
        with self._cond:
            self._usable()
            payload = self._wait_stream()
            if payload is None:
                raise PassEnded
            self._account(payload)
        return payload.open()

    def begin_pass(self) -> None:
        """See `Order.begin_pass`."""
        with self._cond:
            order = self._usable()
            order.begin_pass()
            self._replan(order)
            self._prune(order)
        self.wake()

    def end_pass(self) -> None:
        """See `Order.end_pass`."""
        with self._cond:
            if self._order is not None:
                self._order.end_pass()

    def position(self) -> tuple[int, int]:
        """(epoch, batches of it delivered)."""
        with self._cond:
            return (self._order.epoch, self._order.position) if self._order else (0, 0)

    def stats(self) -> Stats:
        """A look at the counters."""
        with self._cond:
            window = self._tickets if self.stream else self._window
            return Stats(
                **asdict(self._counted),
                owed=window.owed,
                stored=window.stored,
                workers=sum(n.workers for n in self._credits.nodes.values()),
                nodes=len(self._credits.nodes),
            )

    def close(self) -> None:
        """Wake everybody up; what waits gets a ClosedError."""
        with self._cond:
            self.closed = True
            for payload in [*self._store.values(), *self._queue]:
                if payload is not None:
                    payload.drop()
            self._store.clear()
            self._queue.clear()
            self._kept.clear()
            self._cond.notify_all()

    def _usable(self) -> Order:
        if self.closed:
            raise ClosedError("this feeder was closed; make a new one")
        if self._order is None:
            raise NodeUnreachable("no server has answered yet")
        return self._order

    def _replan(self, order: Order) -> None:
        if self.stream or order.version == self._version:
            return
        self._version = order.version
        self._window.replan(order.upcoming(), order.epoch)
        for key in [k for k in self._store if k[0] < order.epoch]:
            self._store.pop(key).drop()
        self._cancel_below = order.epoch

    def _prune(self, order: Order) -> None:
        for key in [k for k in self._kept if not order.may_repeat(k)]:
            del self._kept[key]

    def _wait_key(self, key: Key) -> Payload:
        started = time.monotonic()
        said = _Said(f"batch {key[1]} of epoch {key[0]} of source {self.source!r}")
        while key not in self._store:
            self._check_wait(started, said)
            self._window.need(key)
            self.wake()
            self._cond.wait(SLICE)
        payload = self._store.pop(key)
        self._window.taken(key)
        self._took(started)
        return payload

    def _wait_position(self) -> Payload:
        # Streams as Keras sees them: runs are chained, as a generator with `while True` would.
        ends = 0
        while True:
            payload = self._wait_stream()
            if payload is not None:
                return payload
            ends += 1
            if ends > 1:
                raise SourceError(f"source {self.source!r}: the stream ended without giving a batch")

    def _wait_stream(self) -> Payload | None:
        started = time.monotonic()
        said = _Said(f"the next batch of source {self.source!r}")
        while not self._queue:
            self._check_wait(started, said)
            self._waiting_stream = True
            self.wake()
            self._cond.wait(SLICE)
        self._waiting_stream = False
        payload = self._queue.popleft()
        if payload is not None:
            self._tickets.taken()
        self._took(started)
        return payload

    def _check_wait(self, started: float, said: _Said) -> None:
        if self.closed:
            raise ClosedError("this feeder was closed while a batch was waited for")
        self._raise_if_hopeless()
        waited = time.monotonic() - started
        if self._batch_timeout is not None and waited > self._batch_timeout:
            raise BatchTimeout(f"{said.what} did not come within {self._batch_timeout:g} s: {self._whereabouts()}")
        said.maybe(self._whereabouts)

    def _took(self, started: float) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = started
        else:  # the first wait is the start-up, not the training
            self._counted.wait_seconds += now - started
        self._counted.elapsed_seconds = now - self._first
        window = self._tickets if self.stream else self._window
        limit = self._credits.limit()
        # Waking the receiver costs two system calls: for quick batches once in a while is enough.
        if limit < 16 or window.owed + window.stored <= limit - limit // 8:
            self.wake()

    def _account(self, payload: Payload) -> None:
        self._counted.batches += 1
        self._counted.nbytes += payload.nbytes

    def _raise_if_hopeless(self) -> None:
        if self.fatal is not None:
            raise self.fatal
        now = time.monotonic()
        if any(node.connected and node.error is None for node in self.nodes):
            return
        errors = [node.error for node in self.nodes if node.error is not None]
        if errors and len(errors) == len(self.nodes):
            raise errors[0]
        if all(node.error is not None or now - node.since > self._connect_timeout for node in self.nodes):
            where = ", ".join(node.endpoint for node in self.nodes if node.error is None)
            raise NodeUnreachable(
                f"no server answers at {where} (tried for {self._connect_timeout:g} s): is feeder-server running there, is the port "
                "the one that it printed, does a firewall stand between?"
            )

    def _whereabouts(self) -> str:
        return "; ".join(self._describe(node) for node in self.nodes)

    def _describe(self, node: NodeState) -> str:
        if node.error is not None:
            return f"{node.endpoint}: {node.error}"
        if not node.connected:
            return f"no connection to {node.endpoint} for {time.monotonic() - node.since:.0f} s"
        if node.opened is None:
            return f"{node.endpoint} is connected and has not loaded the source yet"
        return f"{node.endpoint}: {node.progress or 'connected'}"

    # ------------------------------------------------------------------------------------------------- receiver thread

    def requests(self) -> tuple[list[Request], int | None]:
        """What to ask now, and the epoch below which everything may be cancelled, if that has changed."""
        with self._cond:
            if self._order is None or self.closed:
                return [], None
            if self.stream:
                return self._tickets.fill(self._waiting_stream), None
            below, self._cancel_below = self._cancel_below, None
            return self._window.fill(self._order.epoch, self._kept.__contains__), below

    def connected(self, node: int) -> None:
        """A connection stands."""
        with self._cond:
            state = self.nodes[node]
            state.connected, state.since, state.error = True, time.monotonic(), None
            self._cond.notify_all()

    def opened(self, node: int, opened: m.Opened) -> None:
        """A node serves the source."""
        with self._cond:
            if self._order is None:
                try:
                    self._begin(opened)
                except ConfigError as e:
                    self.fatal = e
                    self._cond.notify_all()
                    return
            self.nodes[node].opened = opened
            (self._tickets if self.stream else self._window).node_opened(node, opened.workers)
            self._cond.notify_all()

    def _begin(self, opened: m.Opened) -> None:
        self.stream = opened.kind == "stream"
        length = None if opened.num_batches < 0 else opened.num_batches
        if self._world_size > 1:
            if self.stream or length is None:
                raise ConfigError("rank and world_size share out the batches of an indexed source; this one is a stream")
            length //= self._world_size
        if self._steps is not None:
            if not self.stream and length is not None and self._steps > length:
                raise ConfigError(f"steps={self._steps}, but source {self.source!r} has only {length} batches")
            length = self._steps
        self.num_batches = length
        self._order = Order(length, opened.seed)
        self._replan(self._order)
        self._cancel_below = None

    def index_of(self, index: int) -> int:
        """The server's number of our batch `index`."""
        return index if self.stream else index * self._world_size + self._rank

    def arrived(self, node: int, epoch: int, index: int, payload: Payload, seconds: float) -> None:
        """A batch has come, or the news that it can't be had."""
        with self._cond:
            self._counted.compute_seconds += seconds
            if self.stream:
                wanted = self._tickets.arrived((epoch, index), node, payload.nbytes, seconds)
                if wanted:
                    self._queue.append(payload)
            else:
                key = (epoch, (index - self._rank) // self._world_size)
                wanted = self._window.arrived(key, node, payload.nbytes, seconds)
                if wanted:
                    self._store[key] = payload
            if not wanted or self.closed:
                payload.drop()
            self._cond.notify_all()

    def failed_batch(self, node: int, failed: m.Failed) -> None:
        """The user's code raised; the error waits for its turn in the order."""
        index = failed.index if self.stream else (failed.index - self._rank) // self._world_size
        context = f"source {self.source!r}" if self.stream else f"batch {index} of epoch {failed.epoch} of source {self.source!r}"
        self.arrived(node, failed.epoch, failed.index, Broken(rebuild(failed.error, context)), 0.0)

    def ended(self, node: int, epoch: int, index: int) -> None:
        """Streams: a ticket got nothing."""
        with self._cond:
            if self._tickets.ended((epoch, index), node):
                self._queue.append(None)
            self._cond.notify_all()

    def progress(self, node: int, text: str) -> None:
        """What a node says it is doing."""
        with self._cond:
            self.nodes[node].progress = text

    def lost(self, node: int, why: str) -> None:
        """A node is out of reach: what it owed is asked of the others, or of it when it is back."""
        with self._cond:
            state = self.nodes[node]
            if state.connected:
                log.warning("lost the connection to %s: %s", state.endpoint, why)
                self._counted.reconnects += 1
                state.since = time.monotonic()
            self._drop_node(node)

    def failed(self, node: int, error: FeederError) -> None:
        """A node refuses, or has ended with an error."""
        with self._cond:
            state = self.nodes[node]
            if state.error is None or str(state.error) != str(error):
                log.log(logging.DEBUG if len(self.nodes) == 1 else logging.WARNING, "%s: %s", state.endpoint, error)
            state.error = error
            self._drop_node(node)

    def _drop_node(self, node: int) -> None:
        state = self.nodes[node]
        state.connected, state.opened, state.progress = False, None, ""
        again = (self._tickets if self.stream else self._window).node_lost(node)
        self._counted.retries += again
        if self.stream and self._tickets.end_run():
            self._queue.append(None)
        self._cond.notify_all()

    def give_up(self, error: FeederError) -> None:
        """Nothing will come any more."""
        with self._cond:
            self.fatal = self.fatal or error
            self._cond.notify_all()


class _Said:
    """Logs a long wait: after ten seconds, and at growing intervals."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._started = time.monotonic()
        self._next = FIRST_WORD_SECONDS

    def maybe(self, why: Callable[[], str]) -> None:
        """Say so, if it is time."""
        waited = time.monotonic() - self._started
        if waited >= self._next:
            self._next *= 2
            log.warning("waiting for %s for %.0f s: %s", self.what, waited, why())
