"""Where a client is in its data: as far as batches were handed out, or as far as they were *trained on*; saved and taken up again.

    batch asked for ─▶ mark() ─▶ ... handed out ─▶ handed_out(mark) ─▶ marks ─▶ trained(n): the position moves on by n batches

A training runs behind what was handed out: TensorFlow reads ahead of the step. Once somebody says what was trained on (`track`), that is
what `state` gives. Used under the lock of core.py; no clock, no thread, no I/O.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from feeder_client.order import Key, Order
from feeder_client.place import Mark, Place, StreamMark, StreamPlace, follow, follow_stream, seen_from
from feeder_client.seen import Seen
from feeder_client.stock import Stock, StreamStock
from feeder_client.stream_window import Part
from feeder_wire.errors import ConfigError
from feeder_wire.messages import Opened

FORMAT = 1
MOST_MARKS = 1_000_000
"""Batches that may be read ahead of the training; that many are some 200 MB of marks, so nobody says any more what is trained on."""


class Position:
    """See the module.

    Args:
        source: its name.
        share: (rank, world_size).
        opened: what the first node said about it.
        order: the client's.
        stock: the client's.
    """

    def __init__(self, source: str, share: tuple[int, int], opened: Opened, order: Order, stock: Stock) -> None:
        self._about: dict[str, Any] = {
            "source": source,
            "kind": opened.kind,
            "num_batches": order.num_batches,
            "seed": opened.seed,
            "share": list(share),
            "ordered": opened.ordered,
        }
        self._order, self._stock = order, stock
        self._here = StreamPlace()  # of a stream: as far as batches were handed out
        self._trained: Place | StreamPlace | None = None  # None: nobody says what is trained on
        self._marks: deque[tuple[Mark | StreamMark, bool]] = deque()  # and whether there was a batch

    # ------------------------------------------------------------------------------------------------------- batch by batch

    def asked(self, key: Key) -> Mark | None:
        """A batch was asked for; None: only to be looked at."""
        return self._order.mark(key) if self._order.training else None

    def took(self, mark: Mark | None) -> Mark | StreamMark | None:
        """Its payload has just been taken from the stock."""
        if not isinstance(self._stock, StreamStock) or self._stock.last is None:
            return mark
        run, (node, index) = self._stock.last
        workers = len(self._stock.window.parts[node])
        return StreamMark(run, (node, index % workers), index // workers, mark)

    def handed_out(self, mark: Mark | StreamMark | None, skipped: bool = False) -> None:
        """The training has it; or, `skipped`, it can't be had and counts as given with the batch before it."""
        if mark is None:
            return
        if isinstance(mark, StreamMark):
            self._here = follow_stream(self._here, mark)
        if self._trained is None:
            return
        if mark.cut:
            self._marks.clear()
        if len(self._marks) >= MOST_MARKS:
            raise ConfigError(f"{MOST_MARKS:,} batches were handed out since mark_trained() was called: call it after each training step")
        self._marks.append((mark, skipped))
        if skipped and len(self._marks) == 1:
            self._follow_skipped()

    def track(self) -> None:
        """From here on somebody says what was trained on; what was handed out so far has been."""
        self._trained = self._handed_out()
        self._marks.clear()

    def untrack(self) -> None:
        """The training is over: from here on batches count when they are handed out."""
        self._trained = None
        self._marks.clear()

    def trained(self, count: int, one_epoch: bool = False) -> None:
        """`count` batches more were trained on, in the order in which they were handed out.

        `one_epoch`: at most so many, for they are of one epoch and may have been the last of it.
        """
        if self._trained is None:
            raise ConfigError("mark_trained() counts from track_training() on: call that before the training begins")
        for done in range(count):
            if not self._marks or (one_epoch and done and _opens(self._marks[0][0])):
                break
            self._follow()
            self._follow_skipped()

    def _follow_skipped(self) -> None:
        while self._marks and self._marks[0][1]:
            self._follow()

    def _follow(self) -> None:
        mark, _ = self._marks.popleft()
        if isinstance(mark, StreamMark):
            assert isinstance(self._trained, StreamPlace)
            self._trained = follow_stream(self._trained, mark)
        else:
            assert isinstance(self._trained, Place)
            self._trained = follow(self._trained, mark)

    def known(self) -> None:
        """See `Order.known`."""
        self._order.known()

    def _handed_out(self) -> Place | StreamPlace:
        return self._here.copy() if isinstance(self._stock, StreamStock) else self._order.place()

    def short(self) -> bool:
        """Is the epoch under way shorter than the others, for its position was taken up again?"""
        return self._order.length != self._order.num_batches

    # ------------------------------------------------------------------------------------------------------ saved and loaded

    def state(self) -> dict[str, Any]:
        """The position, as plain data."""
        found = self._handed_out() if self._trained is None else self._trained
        state = {"feeder_state": FORMAT, **self._about}
        if isinstance(found, Place):
            return {**state, "place": found.to_json()}
        return {**state, "place": found.place.to_json(), "run": found.run, "nodes": self._nodes_of(found)}

    def _nodes_of(self, found: StreamPlace) -> dict[str, list[list[Any]]]:
        assert isinstance(self._stock, StreamStock)
        window = self._stock.window
        nodes: dict[str, list[list[Any]]] = {}
        for number, parts in window.parts.items():
            rows = []
            for worker, part in enumerate(parts):
                seen = found.parts.get((number, worker), Seen())
                end = part.end if found.run == window.run else None
                rows.append([seen.start, seen.run, seen.rest, end])
            nodes[str(number)] = rows
        return nodes

    def load(self, state: object) -> None:
        """Take up a position that `state` gave.

        Raises:
            ConfigError: it is none, or of other data.
        """
        try:
            if not isinstance(state, dict) or state.get("feeder_state") != FORMAT:
                raise ValueError(f"feeder_state={FORMAT} is missing")
            self._check(state)
            place = Place.from_json(state["place"])
            saved = {int(number): [_part(row) for row in rows] for number, rows in state.get("nodes", {}).items()}
            run = state.get("run", 0)
            if type(run) is not int or not 0 <= run < 1 << 63:
                raise ValueError("not a run")
            n = self._order.num_batches
            if n is not None and not place.fits(n):
                raise ValueError(f"not a position in {n} batches")
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise ConfigError(f"this is no position that state_dict() gave ({type(e).__name__}: {e})") from None
        if isinstance(self._stock, StreamStock):
            self._stock.begin(run, saved)
            parts = {(number, worker): part.given.copy() for number, row in saved.items() for worker, part in enumerate(row)}
            self._here = StreamPlace(place, run, parts)
        self._order.load(place)
        self._stock.reset()
        if self._trained is not None:
            self.track()

    def _check(self, state: dict[str, Any]) -> None:
        for name, ours in self._about.items():
            theirs = state[name]
            if theirs != ours:
                cure = {
                    "seed": f"start the server with --seed {theirs}",
                    "num_batches": "the data, or the batch size, is another one",
                    "ordered": f"start the server with --stream-order {'fixed' if theirs else 'ready'}",
                }.get(name, "it belongs to another source")
                raise ConfigError(f"this position was saved with {name} {theirs!r}, and now it is {ours!r}: {cure}")


def _opens(mark: Mark | StreamMark) -> bool:
    """Is it that of the first batch of an epoch?"""
    mine = mark.mark if isinstance(mark, StreamMark) else mark
    return mine is not None and mine.opening is not None


def _part(row: list[Any]) -> Part:
    start, run, rest, end = row
    if end is not None and (type(end) is not int or end < 0):
        raise ValueError("not the end of a part")
    given = seen_from([start, run, rest])
    part = Part(given.rest[-1] + 1 if given.rest else given.run, end=end, given=given)
    part.again.extend(place for place in range(given.run, part.place) if place not in given)
    return part
