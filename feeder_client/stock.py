"""The batches that have come and were not taken, with the window that asks for them: one class for each kind of source.

Both are used under the lock of core.py. `take` gives the batch for a key, or None when it isn't there yet; an indexed source has
a place for every key, a stream gives whatever came next, so that nothing waits for a straggler.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from typing import TypeAlias

from feeder_client.credits import Credits
from feeder_client.order import Key, Order
from feeder_client.payload import Broken, Payload
from feeder_client.stream_window import Part, StreamWindow, Ticket
from feeder_client.window import Request, Window
from feeder_wire.errors import SourceError
from feeder_wire.messages import MAX_INDEX

log = logging.getLogger("feeder.client")

HEDGE_FACTOR = 8.0
"""Times of a usual batch after which the node that owes the next one is late: its workers have others to make before it."""
HEDGE_SECONDS = 0.1
"""Nothing is late before that, but on a node of which it is known that it is so much slower."""
KNOWN_AFTER = 4
"""Batches of a node from which on it is known what it takes for one."""


class IndexedStock:
    """Batches by key.

    Args:
        credits: of this client.
        order: the position; its plan is what the window asks for.
        lookahead: see `Window`.
        share: (rank, world_size): our batch i is the source's batch ``i * world_size + rank``.
    """

    def __init__(self, credits: Credits, order: Order, lookahead: bool, share: tuple[int, int]) -> None:
        self._order = order
        self._window = Window(credits, lookahead)
        self._rank, self._world_size = share
        self._store: dict[Key, Payload] = {}
        self._version = -1
        self._cancel_below: int | None = None
        self.follow()
        self._cancel_below = None  # nothing was asked for yet

    def follow(self) -> None:
        """The order may have changed its mind about what comes next: plan anew, give up what belongs to epochs gone by."""
        if self._order.version == self._version:
            return
        self._version = self._order.version
        self._window.replan(self._order.upcoming(), self._order.epoch)
        for key in [k for k in self._store if k[0] < self._order.epoch]:
            self._store.pop(key).drop()
        self._cancel_below = self._order.epoch

    def reset(self) -> None:
        """The position is another one: give up everything."""
        self.clear()
        self._window.reset()
        self.follow()
        self._cancel_below = MAX_INDEX

    def take(self, key: Key) -> Payload | None:
        """The batch, if it has come."""
        payload = self._store.pop(key, None)
        if payload is not None:
            self._window.taken(key)
        return payload

    def need(self, key: Key) -> bool:
        """See `Window.need`."""
        return self._window.need(key)

    def fill(self, have: Callable[[Key], bool]) -> list[Request]:
        """What to ask now, in the numbers of the source."""
        found = self._window.fill(self._order.epoch, have)
        if self._world_size == 1:
            return found
        return [Request(r.node, r.epoch, tuple(i * self._world_size + self._rank for i in r.indices)) for r in found]

    def cancel_below(self) -> int | None:
        """The epoch below which the nodes may forget what was asked, once, after that has changed."""
        below, self._cancel_below = self._cancel_below, None
        return below

    def own(self, epoch: int, index: int) -> Key:
        """Our key for the source's (epoch, index)."""
        return (epoch, (index - self._rank) // self._world_size)

    def arrived(self, node: int, epoch: int, index: int, payload: Payload, seconds: float) -> bool:
        """A batch has come. False: nobody wants it."""
        key = self.own(epoch, index)
        wanted = self._window.arrived(key, node, payload.nbytes, seconds)
        if wanted:
            self._store[key] = payload
        return wanted

    def serves(self, awaited: Collection[Key], epoch: int, index: int) -> bool:
        """Is the source's (epoch, index) among what is waited for?"""
        return self.own(epoch, index) in awaited

    def ended(self, node: int, epoch: int, index: int) -> None:
        """Only streams end."""

    def describe(self, key: Key) -> str:
        """What is waited for, in words."""
        return f"batch {key[1]} of epoch {key[0]}"

    def hedge(self, key: Key) -> bool:
        """See `Window.hedge`."""
        return self._window.hedge(key)

    def patience(self, key: Key) -> float | None:
        """Seconds to wait for the node that owes the next batch, before `hedge`; None: there is no other, or nothing is known of it."""
        nodes, owner = self._window.credits.nodes, self._window.owner(key)
        others = [node.seconds for number, node in nodes.items() if number != owner and node.delivered >= KNOWN_AFTER]
        if owner is None or not others:
            return None
        late = max(HEDGE_SECONDS, HEDGE_FACTOR * min(others))
        return 0.0 if nodes[owner].seconds > late else late

    def handed_back(self, node: int, epoch: int, indices: tuple[int, ...]) -> int:
        """See `Window.handed_back`."""
        return self._window.handed_back(node, [self.own(epoch, index) for index in indices])

    def node_opened(self, node: int, workers: int) -> None:
        """See `Window.node_opened`."""
        self._window.node_opened(node, workers)

    def node_lost(self, node: int) -> int:
        """See `Window.node_lost`."""
        return self._window.node_lost(node)

    def missing(self) -> list[int]:
        """Any node makes any batch."""
        return []

    def give_up(self, nodes: Collection[int]) -> list[int]:
        """What they owed is asked of others."""
        return []

    @property
    def level(self) -> tuple[int, int]:
        """(asked for and not there, there and not taken)."""
        return self._window.owed, self._window.stored

    def clear(self) -> None:
        """Nobody will take any of it."""
        for payload in self._store.values():
            payload.drop()
        self._store.clear()


class StreamStock:
    """Batches of a stream in the order in which they are to be handed out. A None in the queue is the end of a run, not data.

    Args:
        credits: of this client.
        ordered: see `StreamWindow`.
        nodes: how many there are in all.
    """

    def __init__(self, credits: Credits, ordered: bool = False, nodes: int = 1) -> None:
        self.window = StreamWindow(credits, ordered, nodes)
        self.last: tuple[int, Ticket] | None = None  # run and ticket of the batch that was taken last
        self._came: dict[Ticket, Payload] = {}
        self._queue: deque[tuple[int, Ticket, Payload] | None] = deque()
        self._empty_runs = 0
        self._rewound = False

    def follow(self) -> None:
        """Nothing to plan: a stream comes as it comes."""

    def reset(self) -> None:
        """See `begin`."""

    def take(self, key: Key) -> Payload | None:
        """The next batch, whatever the key: one run follows the other, as from a generator with ``while True``."""
        while self._queue:
            payload = self._pop()
            if payload is not None:
                self._empty_runs = 0
                return payload
            self._empty_runs += 1
            if self._empty_runs > 1:
                return Broken(SourceError("the stream ended without giving a batch"))
        return None

    def take_in_run(self) -> tuple[bool, Payload | None]:
        """(True, the next batch), (True, None) at the end of a run, (False, None) when neither has come."""
        return (True, self._pop()) if self._queue else (False, None)

    def _pop(self) -> Payload | None:
        found = self._queue.popleft()
        if found is None:
            return None
        self.window.taken()
        self.last = found[:2]
        return found[2]

    def need(self, key: Key) -> bool:
        """Somebody waits: nothing can be asked for that isn't."""
        return False

    def serves(self, awaited: Collection[Key], epoch: int, index: int) -> bool:
        """Any batch may be the one that is waited for, or what it comes after."""
        return True

    def fill(self, have: Callable[[Key], bool]) -> list[Request]:
        """What to ask now."""
        return self.window.fill()

    def cancel_below(self) -> int | None:
        """What a stream has given is never cancelled, for it would be lost; only where the position is another one."""
        rewound, self._rewound = self._rewound, False
        return MAX_INDEX if rewound else None

    def own(self, epoch: int, index: int) -> Key:
        """The same as the source's."""
        return (epoch, index)

    def arrived(self, node: int, epoch: int, index: int, payload: Payload, seconds: float) -> bool:
        """A batch has come. False: nobody wants it (any more)."""
        if not self.window.arrived(node, epoch, index, payload.nbytes, seconds):
            return False
        self._came[node, index] = payload
        self._hand_on()
        return True

    def ended(self, node: int, epoch: int, index: int) -> None:
        """There is no such batch."""
        self.window.ended(node, epoch, index)
        self._hand_on()

    def _hand_on(self) -> None:
        run = self.window.run
        self._queue.extend((run, ticket, self._came.pop(ticket)) for ticket in self.window.ready())
        if self.window.end_run():
            self._queue.append(None)

    def describe(self, key: Key) -> str:
        """What is waited for, in words."""
        return "the next batch"

    def hedge(self, key: Key) -> bool:
        """What one node has of a stream, no other has."""
        return False

    def patience(self, key: Key) -> float | None:
        """For ever."""
        return None

    def handed_back(self, node: int, epoch: int, indices: tuple[int, ...]) -> int:
        """A node hands back only what others can make."""
        return 0

    def node_opened(self, node: int, workers: int) -> None:
        """See `StreamWindow.node_opened`."""
        if not self.window.node_opened(node, workers):
            log.warning("a server came back with %d workers; its part of the stream's run begins anew", workers)
        self._hand_on()

    def node_lost(self, node: int) -> int:
        """See `StreamWindow.node_lost`."""
        return self.window.node_lost(node)

    def missing(self) -> list[int]:
        """See `StreamWindow.missing`."""
        return self.window.missing()

    def give_up(self, nodes: Collection[int]) -> list[int]:
        """See `StreamWindow.give_up`; the run may be over without them."""
        fresh = self.window.give_up(nodes)
        if fresh:
            self._hand_on()
        return fresh

    @property
    def level(self) -> tuple[int, int]:
        """(asked for and not there, there and not taken)."""
        return self.window.owed, self.window.stored

    def begin(self, run: int, saved: dict[int, list[Part]]) -> None:
        """See `StreamWindow.begin`; what has come and was not taken is dropped too."""
        self.window.begin(run, saved)
        self._rewound = True
        for found in self._queue:
            if found is not None:
                self.window.taken()
        self.clear()
        self._hand_on()

    def clear(self) -> None:
        """Nobody will take any of it."""
        for payload in [*self._came.values(), *(found[2] for found in self._queue if found is not None)]:
            payload.drop()
        self._came.clear()
        self._queue.clear()


Stock: TypeAlias = IndexedStock | StreamStock
