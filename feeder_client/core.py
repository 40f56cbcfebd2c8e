"""What the training thread and the receiver thread share. Decide under the lock, do the I/O outside.

    training thread                         core (lock, condition)                           receiver thread
    get(i) ─▶ order: which key is meant ─▶ stock: is it there, what to ask ── requests() ──▶ sends Ask
           ◀─ open() outside the lock  ◀── stock: key ─▶ payload ◀── arrived(), ended() ──── receives batches
                                           roster: who is there ◀──── opened(), lost(), failed()

Every wait here ends: with the batch, with an error that says why there is none, or with `close`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, TypeVar

from feeder_client.agreement import Agreement
from feeder_client.options import Options
from feeder_client.order import Key, Order
from feeder_client.payload import Broken, Payload
from feeder_client.place import Mark
from feeder_client.position import Position
from feeder_client.roster import LongWait
from feeder_client.skips import SKIPPED, Missing, Skipped
from feeder_client.stats import Stats
from feeder_client.stock import IndexedStock, Stock, StreamStock
from feeder_client.waiting import SLICE, Waiting
from feeder_client.window import Request
from feeder_wire import messages as m
from feeder_wire.errors import ClosedError, ConfigError, FeederError, NodeUnreachable, rebuild

log = logging.getLogger("feeder.client")

T = TypeVar("T")


class Core(Waiting):
    """See the module.

    Args:
        endpoints: of the nodes.
        options: of the client.
    """

    def __init__(self, endpoints: list[str], options: Options) -> None:
        super().__init__(endpoints, options)
        self._order: Order | None = None
        self._kept: dict[Key, Any] = {}  # batches that were looked at and may be asked for again
        self._undelivered: dict[int, tuple[Key, Mark | None]] = {}  # what a caller waits for, or got an error instead of
        self._agreement = Agreement(options.source)
        self._said: set[str] = set()
        self._notes: tuple[str, ...] = ()  # about the source, from the node, not yet said

    # ------------------------------------------------------------------------------------------------- training thread

    def wait_open(self) -> None:
        """Wait until a node serves the source.

        Raises:
            FeederError: none can, and why.
        """
        wait = LongWait(f"source {self.options.source!r}", time.monotonic())
        with self._cond:
            while self._order is None:
                now = time.monotonic()
                self._raise_if_hopeless(now)
                wait.say(now, self.roster)
                self._cond.wait(SLICE)

    def get(self, index: int, missing: Missing = Missing.RAISE) -> Any:
        """Batch `index`, as `Order` understands it. Waits.

        Args:
            index: see `Order.ask`.
            missing: with ``on_error="skip"``, what is wanted in the place of one that can't be had.

        Raises:
            IndexError: there is no such batch.
            FeederError: it can't be had.
            Skipped: it can't be had, and was skipped.
        """
        with self._cond:
            order, stock = self._usable()
            key, mark = self._key_of(index, order)
            stock.follow()
            if key in self._kept:
                batch = self._kept[key]
                self._where.handed_out(mark)
                self._prune(order)
                self.wake()
                return batch
            self._undelivered[index] = (key, mark)
            try:
                payload = self._await(key, stock) if missing is Missing.RAISE else self._sound(key, mark, missing, order, stock)
            except Skipped:
                self._undelivered.pop(index, None)
                raise
            taken = self._where.took(mark)
            self._prune(order)
        batch = payload.open()
        with self._cond:
            self._where.handed_out(taken)
            self._undelivered.pop(index, None)
            if order.may_repeat(key):
                self._kept[key] = batch
        return batch

    def keeps(self, batch: object) -> bool:
        """Will this batch, which `get` gave, perhaps be given again?"""
        with self._cond:
            return any(kept is batch for kept in self._kept.values())

    def _key_of(self, index: int, order: Order) -> tuple[Key, Mark | None]:
        # Asked for again after an error or a time-out: it is still owed, and not the beginning of another pass.
        before = self._undelivered.get(index)
        if before is not None and before[0][0] == order.epoch:
            return before
        self._undelivered.clear()
        key = order.ask(index)
        return key, self._where.asked(key)

    def get_in_run(self) -> Any:
        """The next batch of this run of a stream. Raises PassEnded when the run is over, else as `get`."""
        with self._cond:
            _, stock = self._usable()
            assert isinstance(stock, StreamStock)
            payload = self._sound_in_run(stock)
            mark = self._where.took(None)
        batch = payload.open()
        with self._cond:
            self._where.handed_out(mark)
        return batch

    @property
    def in_runs(self) -> bool:
        """Is a pass one run of a stream, of a length that nobody knows?"""
        return isinstance(self._stock, StreamStock) and self.num_batches is None

    def begin_pass(self, shuffle: bool | None = None, look: bool | None = None, anew: bool = False, parts: bool = False) -> None:
        """See `Order.begin_pass`."""
        with self._cond:
            order, stock = self._usable()
            self._undelivered.clear()
            order.begin_pass(shuffle, look, anew, parts)
            stock.follow()
            self._prune(order)
        self.wake()

    def end_pass(self) -> None:
        """See `Order.end_pass`."""
        with self._cond:
            if self._order is not None:
                self._order.end_pass()

    @property
    def pass_length(self) -> int | None:
        """Batches of the pass under way, or else of a whole one."""
        return self._order.length if self._order is not None and self._order.in_pass else self.num_batches

    def where(self, do: Callable[[Position], T]) -> T:
        """Ask or tell the `Position`, under the lock."""
        with self._cond:
            self._usable()
            return do(self._where)

    def load_state(self, state: object) -> None:
        """See `Position.load`."""
        self.where(lambda position: position.load(state))
        self._kept.clear()
        self._undelivered.clear()
        self.wake()

    def position(self) -> tuple[int, int]:
        """(epoch, batches of it delivered)."""
        with self._cond:
            return (self._order.epoch, self._order.position) if self._order else (0, 0)

    def stats(self) -> Stats:
        """A look at the counters."""
        with self._cond:
            owed, stored = self._stock.level if self._stock else (0, 0)
            nodes = self._credits.nodes.values()
            return Stats(**asdict(self._counted), owed=owed, stored=stored, workers=sum(n.workers for n in nodes), nodes=len(nodes))

    def waited(self, now: float) -> float:
        """For how many seconds the training has stood still for want of batches, up to this moment; not at its very beginning."""
        with self._cond:
            under_way = self._waiting.seconds(now) if self._waiting is not None and self._first is not None else 0.0
            return self._counted.wait_seconds + under_way

    def close(self) -> None:
        """Wake everybody up; what waits gets a ClosedError."""
        with self._cond:
            self.closed = True
            if self._stock is not None:
                self._stock.clear()
            self._kept.clear()
            if self._skips is not None:
                self._skips.report()
            self._cond.notify_all()

    def _usable(self) -> tuple[Order, Stock]:
        if self.closed:
            raise ClosedError("this feeder was closed; make a new one")
        if self._order is None or self._stock is None:
            raise NodeUnreachable("no server has answered yet")
        return self._order, self._stock

    def _prune(self, order: Order) -> None:
        for key in [k for k in self._kept if not order.may_repeat(k)]:
            del self._kept[key]

    # ------------------------------------------------------------------------------------------------- receiver thread

    def requests(self) -> tuple[list[Request], int | None]:
        """What to ask now, and the epoch below which everything may be cancelled, if that has changed."""
        with self._cond:
            if self._stock is None or self.closed:
                return [], None
            below = self._stock.cancel_below()
            return self._stock.fill(self._kept.__contains__), below

    def connected(self, node: int) -> None:
        """A connection stands."""
        with self._cond:
            self.roster.connected(node, time.monotonic())
            self._cond.notify_all()

    def opened(self, node: int, opened: m.Opened) -> None:
        """A node serves the source."""
        with self._cond:
            try:
                stock = self._stock or self._begin(opened)
            except ConfigError as e:
                self.give_up(e)
                return
            self.roster.opened(node, opened)
            self._notes = opened.notes
            if self.options.steps is None:
                self._say_notes()  # else it may be endless, and they are about streams that end: see `ended`
            stock.node_lost(node)  # known or new, it owes nothing
            self._agreement.opened(node, opened)
            self._use_what_agrees(stock)
            self._cond.notify_all()

    def judged(self, node: int, verdict: m.Verdict) -> None:
        """A node says what comparing its copies has shown."""
        with self._cond:
            state = self.roster.nodes[node]
            if verdict.costs and verdict.outcome and verdict.text not in self._said:
                self._said.add(verdict.text)
                log.warning("%s", verdict.text)
            state.outcome = verdict.outcome
            self._agreement.shown(node, verdict)
            if self._stock is not None:
                self._use_what_agrees(self._stock)
            self._cond.notify_all()

    def _use_what_agrees(self, stock: Stock) -> None:
        for number, state in enumerate(self.roster.nodes):
            if state.opened is None or number in self._credits.nodes:
                continue
            objection = self._agreement.objection(number)
            if isinstance(objection, FeederError):
                self.roster.failed(number, objection)
                self._agreement.lost(number)
            elif objection is None:
                try:
                    stock.node_opened(number, state.opened.workers)
                except ConfigError as e:
                    self.give_up(e)

    def _say_notes(self) -> None:
        for note in self._notes:
            log.warning("%s", note)
        self._notes = ()

    def _begin(self, opened: m.Opened) -> Stock:
        options = self.options
        self.num_batches = options.length_of(opened.kind, opened.num_batches)
        order = Order(self.num_batches, opened.seed, options.rolls)
        if opened.kind == "stream":
            self._stock = StreamStock(self._credits, opened.ordered, len(self.roster.nodes))
        else:
            self._stock = IndexedStock(self._credits, order, options.lookahead, (options.rank, options.world_size))
        self._where = Position(options.source, (options.rank, options.world_size), opened, order, self._stock)
        if options.resume is not None:
            self._where.load(options.resume)
        self._order = order
        return self._stock

    def arrived(self, node: int, epoch: int, index: int, payload: Payload, seconds: float) -> None:
        """A batch has come, or the news that it can't be had."""
        with self._cond:
            self._counted.compute_seconds += seconds
            if self.closed or self._stock is None or not self._stock.arrived(node, epoch, index, payload, seconds):
                payload.drop()
            elif self._stock.serves(self._awaited, epoch, index):  # a thread that is woken for nothing takes the GIL from this one
                self._cond.notify_all()

    def failed_batch(self, node: int, failed: m.Failed) -> None:
        """The user's code raised; the error waits for its turn in the order."""
        with self._cond:
            what = self._stock.describe(self._stock.own(failed.epoch, failed.index)) if self._stock else "a batch"
        error = rebuild(failed.error, f"{what} of source {self.options.source!r}")
        self.arrived(node, failed.epoch, failed.index, Broken(error, skippable=isinstance(error, SKIPPED)), 0.0)

    def ended(self, node: int, epoch: int, index: int) -> None:
        """Streams: a ticket got nothing."""
        with self._cond:
            if self._stock is not None:
                self._stock.ended(node, epoch, index)
            self._say_notes()
            self._cond.notify_all()

    def handed_back(self, node: int, message: m.HandedBack) -> None:
        """A node is being stopped; what it had not begun is asked of others."""
        with self._cond:
            if self._stock is not None:
                self._counted.retries += self._stock.handed_back(node, message.epoch, message.indices)
            self._cond.notify_all()

    def workers(self, node: int, count: int) -> None:
        """A node has more or fewer workers for us now."""
        with self._cond:
            if node in self._credits.nodes:
                self._credits.nodes[node].workers = count
            opened = self.roster.nodes[node].opened
            if opened is not None:  # it may serve only later, when it is known to agree with the others
                self.roster.nodes[node].opened = replace(opened, workers=count)

    def progress(self, node: int, text: str) -> None:
        """What a node says it is doing."""
        with self._cond:
            self.roster.nodes[node].progress = text

    def lost(self, node: int, why: str) -> None:
        """A node is out of reach: what it owed is asked of the others, or of it when it is back."""
        with self._cond:
            if self.roster.lost(node, time.monotonic()):
                log.warning("lost the connection to %s: %s", self.roster.nodes[node].endpoint, why)
                self._counted.reconnects += 1
            self._ask_others(node)

    def failed(self, node: int, error: FeederError) -> None:
        """A node refuses, or has ended with an error."""
        with self._cond:
            self.roster.failed(node, error)
            self._ask_others(node)

    def _ask_others(self, node: int) -> None:
        self._agreement.lost(node)
        if self._stock is not None:
            self._counted.retries += self._stock.node_lost(node)
        self._cond.notify_all()

    def give_up(self, error: FeederError) -> None:
        """Nothing will come any more."""
        with self._cond:
            self._fatal = self._fatal or error
            self._cond.notify_all()
