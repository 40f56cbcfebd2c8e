"""The node: one loop between clients and workers. No locks; only descriptors and small batches pass through here.

    ┌─▶ poll ─▶ gate.receive ─▶ dispatch ─▶ crew.receive ─▶ dispatch ─▶ supervisor.poll ─▶ dispatch.assign ─▶ act ─▶ flush ─┐
    └───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────┘

`dispatch` decides, this file acts. `open` binds and starts the workers, `run` loops until `stop` was called (by a signal handler or
a watching thread: it only sets a flag), `close` leaves nothing behind.
"""

from __future__ import annotations

import logging
import math
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from feeder_server.config import ServeConfig
from feeder_server.crew import Crew
from feeder_server.dispatch import Dispatch
from feeder_server.draining import Drain
from feeder_server.folders import Folders
from feeder_server.gate import Gate
from feeder_server.hedging import Hedging
from feeder_server.outcomes import Outcomes
from feeder_server.report import Reporter, Snapshot, progress, snapshot_of
from feeder_server.scaling import Scaling
from feeder_server.supervisor import MAX_CRASHES, Supervisor
from feeder_server.tending import Tending
from feeder_server.work import Action, Assign, Bury, Remove, Send, Ship, Tell, slots_of
from feeder_server.worker_setup import setup_of
from feeder_wire import messages as m
from feeder_wire import worker_messages as w
from feeder_wire.errors import ProtocolError
from feeder_wire.packing import METHODS

log = logging.getLogger("feeder.node")

TICK = 0.1  # seconds between looks at the processes and at the flag that `stop` sets
PROGRESS_SECONDS = 2.0
STOP_SECONDS = 3.0  # for workers to finish the batch they are at


class Node(Tending):
    """A running node.

    Args:
        config: what to serve, and where.
        on_ready: called once with the endpoint, when the first worker has loaded all its sources.
        on_look: called about twice a second with a `Snapshot`.
        spawn: starts the process of a worker, as `subprocess.Popen` does.
    """

    def __init__(
        self,
        config: ServeConfig,
        on_ready: Callable[[str], None] = lambda endpoint: None,
        on_look: Callable[[Snapshot], None] = lambda snapshot: None,
        spawn: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
    ) -> None:
        super().__init__(config)
        self._spawn = spawn
        self._on_ready, self._on_look = on_ready, on_look
        self.stop_reason: str | None = None  # set from signal handlers and other threads
        self._ready = False
        self._next_look = self._next_progress = 0.0
        self._reporter = Reporter(time.monotonic())
        self._asking: set[bytes] = set()  # who wants to know how we are
        self._drain = Drain(config.drain_timeout)
        self.dispatch = Dispatch(
            slots_of([s.name for s in config.sources], config.workers, config.single),
            config.workers,
            config.memory,
            config.max_retries,
            config.seed,
            config.on_divergence,
            ordered=config.stream_order == "fixed",
        )
        self.dispatch.compression, self.dispatch.forced = config.methods, config.compression in METHODS
        self._outcomes = Outcomes(self.dispatch)
        self._hedging = Hedging(self.dispatch, config.hedge)
        self._scaling = Scaling(self.dispatch, config.autoscale)

    # --------------------------------------------------------------------------------------------------- open, run, close

    def open(self) -> str:
        """Bind, make the arena, start the workers. Returns the endpoint in use.

        Raises:
            EndpointError: the endpoint can't be bound.
        """
        self._folders = Folders(self._config.memory)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            self._gate = Gate(self._context, self._config, self._folders.reader)
            self._crew = Crew(self._context)
        except BaseException:
            self._context.destroy(linger=0)
            self._folders.close()
            raise
        config = self._config
        # A batch that kills its worker has a budget of its own, which must be used up before this one is.
        self._supervisor = Supervisor(
            config.workers,
            self._setup,
            threads=config.threads,
            gpu=config.gpu,
            max_crashes=max(MAX_CRASHES, config.max_retries + 3),  # it may have died once more when copies were compared
            awake=self.dispatch.awake,
            spawn=self._spawn,
        )
        self._poller = zmq.Poller()
        for socket in (*self._gate.sockets, self._crew.socket):
            self._poller.register(socket, zmq.POLLIN)
        self._supervisor.poll(time.monotonic())
        return self._gate.endpoint

    def stop(self, reason: str) -> None:
        """Ask the loop to end; from any thread or signal handler."""
        self.stop_reason = self.stop_reason or reason

    def drain(self, reason: str) -> None:
        """Ask the loop to finish what is under way, hand back the rest, and end; from any thread or signal handler."""
        self._drain.ask(reason)

    def kill(self) -> None:
        """End the workers at once; from a signal handler of a user who has lost patience."""
        if self._supervisor is not None:
            self._supervisor.kill()
            self._folders.close()

    def run(self) -> None:
        """Serve until `stop`.

        Raises:
            FeederError: a source could not be loaded, or the workers keep dying.
        """
        while self.stop_reason is None:
            self.step(TICK)

    def step(self, seconds: float) -> None:
        """One turn of the loop; waits at most `seconds` for something to happen. Raises as `run` does."""
        stirred = {socket for socket, _ in self._poller.poll(math.ceil(self._patience(seconds) * 1000))}
        now = time.monotonic()
        if not stirred.isdisjoint(self._gate.sockets):
            self._gate.authenticate()
        # Here and at the workers: also what came after the poll. Who is taken for dead below must have been heard to the end.
        for client, message in self._gate.receive(now):
            self._act(self._from_client(client, message))
        for client in self._gate.gone(now):
            self._lose(client, "vanished")
        for client in self._gate.offended:  # the log has a line on each already
            self._gate.forget(client)
            self._act(self.dispatch.client_lost(client))
        self._gate.offended.clear()
        for slot, report in self._crew.receive():
            self._act(self._from_worker(slot, report))
        if self._fatal is None:  # else they end because of it, and nothing is to be said of that
            self._look_at_workers(now)
        self._say_outcomes()
        self._act(self._drain.begin(self.dispatch, now))
        for block in self._gate.shipped():
            self._act(self.dispatch.shipped(block))
        self.dispatch.congested = self._gate.congested()
        self.dispatch.lines = self._gate.lines(now)
        self._act(self.dispatch.assign(now))
        self._act(self._hedging.look(now))
        if self._supervisor is not None and self._fatal is None:
            self._act(self._scaling.look(self._supervisor, now))
        self._crew.flush()
        if self._asking:
            self._tell_status(now)
        self._gate.flush()
        if self._drain.done(self.dispatch, self._gate, now):
            self.stop(self._drain.reason or "")
        self._tell_how_it_goes(now)
        if self._fatal is not None:
            raise self._fatal

    def _patience(self, seconds: float) -> float:
        """How long the loop may wait for something to come in, at most `seconds`."""
        if self._gate.busy:
            return min(seconds, 0.002)
        now = time.monotonic()
        assign_at = self.dispatch.assign_at
        return min(self._hedging.patience(seconds, now), seconds if assign_at is None else max(0.0, assign_at - now))

    def _tell_how_it_goes(self, now: float) -> None:
        """To those who look on, and to clients that wait; and what else is due only now and then."""
        if now >= self._next_look:
            self._next_look = now + 0.5
            self._folders.tidy()
            snapshot = self.snapshot()
            self._reporter.look(snapshot, now)
            self._on_look(snapshot)
        if now >= self._next_progress:
            self._next_progress = now + PROGRESS_SECONDS
            self._act(progress(self.dispatch, now))
            self._gate.knock(now)

    def close(self) -> None:
        """Tell the clients, stop the workers, leave nothing behind. Takes at most a few seconds."""
        if self._supervisor is None:
            return
        self._gate.say_goodbye(self.last_word)
        # One that is still loading has nothing to finish, and would not look up: it ends with its pipe.
        told = {slot for slot in self._crew.present if self.dispatch.slots[slot].ready}
        for slot in told:
            self._crew.put(slot, w.Stop())
        self._crew.flush()
        self._supervisor.stop(STOP_SECONDS, told=told)
        self._crew.close()
        self._gate.close()
        self._context.term()  # after this no thread of zmq looks at a block any more
        self._folders.close()
        self._supervisor = None

    @property
    def last_word(self) -> m.Goodbye:
        """What clients are told at the end: why it is stopped, or the error that `run` has raised."""
        return self._fatal_remote if self._fatal else m.Goodbye("", self.stop_reason or "the server was stopped")

    # ----------------------------------------------------------------------------------------------------------- clients

    def _from_client(self, client: bytes, message: m.ToNode) -> list[Action]:
        match message:
            case m.Ask():
                return self.dispatch.ask(client, message)
            case m.Release():
                return self.dispatch.release(client, message)
            case m.Ping():
                self._scaling.heard(client, message.waited_ms)
                return [Send(client, m.Pong(message.number))]
            case m.Hello():
                lend = self._config.memory // 4
                where = self._folders
                welcome = m.Welcome(m.WIRE_VERSION, self._gate.endpoint, self._config.workers, where.paths, where.nonce, lend)
                return [Send(client, welcome), *self.dispatch.hello(client, message)]
            case m.Open():
                self._met(client)
                return self.dispatch.open(client, message)
            case m.Cancel():
                return self.dispatch.cancel(client, message)
            case m.Close():
                return self.dispatch.close(client, message)
            case m.Leave():
                self._lose(client, "left")
            case m.Look():
                self._asking.add(client)
        return []

    def _met(self, client: bytes) -> None:
        # Only now: who looks at the status once a second is no client, and not worth a line in the log.
        peer = self._gate.peers[client]
        if not peer.reads:
            peer.reads = True
            log.info("client %s connected", peer.name)

    def _tell_status(self, now: float) -> None:
        status = m.Status(self._reporter.text(self.snapshot(), self._gate.endpoint, now))
        for client in self._asking:
            self._gate.put(client, status)
        self._asking.clear()

    def _lose(self, client: bytes, how: str) -> None:
        peer = self._gate.peers.get(client)
        if peer is not None and peer.reads:
            log.info("client %s %s", peer.name, how)
        self._scaling.gone(client)
        self._gate.forget(client)
        self._act(self.dispatch.client_lost(client))

    # ----------------------------------------------------------------------------------------------------------- workers

    def _setup(self, slot: int, generation: int) -> dict[str, Any]:
        return setup_of(self._config, self.dispatch.sources, self._crew.endpoint, self._crew.token, self._folders.paths, slot, generation)

    def _from_worker(self, slot: int, report: w.FromWorker) -> list[Action]:
        assert self._supervisor is not None
        match report:
            case w.Made() | w.MadeBlock():
                self._supervisor.progressed(slot)
                self._folders.notice(report)
                return self.dispatch.made(slot, report)
            case w.Looked():
                return self.dispatch.looked(slot, report)
            case w.TaskFailed():
                log.warning("a batch failed: %s: %s", report.error.type_name, report.error.message)
                return self.dispatch.failed(slot, report.task, report.error)
            case w.TaskEnded():
                return self.dispatch.ended(slot, report.task)
            case w.Joined():
                return self.dispatch.joined(slot, report.generation)
            case w.Loaded():
                actions = self.dispatch.loaded(slot, report)
                if self.dispatch.slots[slot].ready:
                    self._supervisor.loaded(slot)
                    if not self._ready:
                        self._ready = True
                        self._on_ready(self._gate.endpoint)
                return actions
            case w.LoadFailed():
                self._load_failed(slot, report)
            case w.Dropped():
                self._folders.reader.forget(report.blocks)
                return [Send(client, m.Retired(report.blocks)) for client in self._gate.peers]
        return []

    # ------------------------------------------------------------------------------------------------------------- common

    def _act(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Assign():
                    self._crew.put(action.slot, action.task)
                case Send():
                    self._gate.put(action.client, action.message)
                case Tell():
                    self._crew.put(action.slot, action.message)
                case Ship():
                    self._ship(action)
                case Remove():
                    self._remove_blocks(action.blocks)
                case Bury():
                    self._remove_blocks(self._folders.blocks_of(action.slot, action.generation, action.keep))

    def _ship(self, action: Ship) -> None:
        lent = action.lent
        try:
            under_way = self._gate.ship(action.client, lent)
        except ProtocolError as e:
            # Its file is gone: a cleaner of /tmp, or systemd's RemoveIPC. The client asks again, and the worker makes another block.
            log.warning("%s; is something removing files there?", e)
            self._gate.put(action.client, m.Unknown(lent.session))
            under_way = False
        if not under_way:
            self._act(self.dispatch.shipped(lent.block))

    def _remove_blocks(self, names: tuple[str, ...]) -> None:
        if names:
            self._folders.remove(names)
            for client in self._gate.peers:
                self._gate.put(client, m.Retired(names))

    def snapshot(self) -> Snapshot:
        """One look at the node."""
        clients = sum(peer.reads for peer in self._gate.peers.values())
        return snapshot_of(self.dispatch, clients, self._supervisor.restarts if self._supervisor else 0)
