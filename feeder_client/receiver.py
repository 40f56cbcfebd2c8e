"""The receiver thread: the only one that touches the client's sockets.

    poll(sockets, monitors, wake-up) ─▶ what happened to connections ─▶ what came in ─▶ core ─▶ what to ask ─▶ flush

Other threads wake it through a pair of plain sockets, for a ZeroMQ socket belongs to one thread, and a finalizer that sends a
block home may run in any.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

import zmq

from feeder_client.connection import Connection, Keys, Stale
from feeder_client.core import Core
from feeder_client.payload import Payload
from feeder_wire import messages as m
from feeder_wire.errors import AuthenticationError, FeederError, NodeUnreachable, ProtocolError, VersionMismatch, of_kind
from feeder_wire.packing import available

log = logging.getLogger("feeder.client")

TICK = 0.25
PING_SECONDS = 3.0
REST_SECONDS = 1.0
"""Before a peer that talked nonsense is tried again: something else may listen there by then."""
MOST_STALE = 3
"""Connections in a row that a node may begin without knowing us afterwards."""
STALE_SECONDS = 30.0
"""Time after which that is forgotten: a laptop may be closed and opened again without a batch in between."""


def to_keep(error: FeederError) -> FeederError:
    """The same error, fit to be kept until its node behaves, and by logs for longer.

    A traceback holds frames, and those the frames that called them, with all their variables: a batch of another node's may be among
    them. So have those of the errors that it came from, which its text has the word of.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


class Receiver:
    """Connections to all nodes, and the thread that serves them.

    Args:
        core: shared with the training thread.
        keys: CURVE, or None.
        allow_map: False forces the socket path also on one host.
        ended: asked now and then; an error means that the (private) server has ended, and why.
    """

    def __init__(self, core: Core, keys: Keys | None, allow_map: bool, ended: Callable[[], FeederError | None]) -> None:
        self._core = core
        self._ended = ended
        self._session = os.urandom(16)
        self._client = os.urandom(16)
        self._pid = os.getpid()
        self._name = f"{os.path.basename(sys.argv[0] or 'python')}, pid {os.getpid()} on {socket.gethostname()}"
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._ear, self._bell = socket.socketpair()
        for end in (self._ear, self._bell):
            end.setblocking(False)
        self._rung = False
        self._closing = False
        self._last_word: FeederError | None = None  # of a server that ended with an error
        self._ping = 0
        self._next_ping = 0.0
        # connection -> how often it was begun anew since a batch came, because the node did not know us; and when last
        self._stale: dict[int, tuple[int, float]] = {}
        self._connections = [Connection(node.endpoint, self._context, keys, allow_map, self.wake) for node in core.roster.nodes]
        self._thread = threading.Thread(target=self._run, name="feeder-receiver", daemon=True)
        core.wake = self.wake

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def wake(self) -> None:
        """Make the thread look up; from any thread, also from a finalizer."""
        if not self._rung:
            self._rung = True
            try:
                self._bell.send(b"!")
            except OSError:  # full: it will look up anyway; closed: nothing to wake
                pass

    def close(self) -> None:
        """Say goodbye to the nodes and close the sockets. Takes at most a few seconds."""
        if os.getpid() != self._pid:
            return  # a forked child: the thread is its parent's, and may hold the core's lock for ever here
        self._core.close()
        self._closing = True
        self._rung = False
        self.wake()
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join(5.0)

    def borrowed_bytes(self) -> int:
        """Bytes of arena blocks in this process' hands."""
        return sum(c.loan.held_bytes for c in self._connections if c.loan is not None)

    @property
    def maps(self) -> bool:
        """Does any node lend blocks to this client?"""
        return any(c.maps for c in self._connections)

    # ----------------------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            for connection in self._connections:
                connection.open(self._hello(connection))
            while not self._closing:
                self._step()
        except Exception as e:  # a defect of ours: the training thread must not wait for ever
            log.exception("the receiver thread failed")
            self._core.give_up(FeederError(f"feeder's receiver thread failed: {type(e).__name__}: {e}"))
        finally:
            self._shut()

    def _step(self) -> None:
        stirred = self._poll()
        now = time.monotonic()
        for number, connection in enumerate(self._connections):
            if connection.rests_until is not None:
                if now < connection.rests_until:
                    continue
                connection.open(self._hello(connection))
            # Asked first and acted on last: what a node said before its connection broke is still to be heard.
            happenings = list(connection.happenings()) if connection.monitor in stirred else []
            try:
                for message in connection.receive():
                    self._take(number, connection, message)
                for happening in happenings:
                    self._happened(number, connection, happening)
            except Stale as e:
                self._begin_anew(number, connection, str(e), now)
            except (ProtocolError, VersionMismatch) as e:
                self._core.failed(number, to_keep(e))
                connection.close()
                connection.rests_until = now + REST_SECONDS
        gone = self._ended()
        if gone is not None:
            # What it said before it went tells more than its exit code.
            self._core.give_up(self._last_word or gone)
        self._send(now)

    def _poll(self) -> set[object]:
        """Waits until there is something to do. Returns the sockets on which something has come."""
        poller = zmq.Poller()
        poller.register(self._ear, zmq.POLLIN)
        for connection in self._connections:
            if connection.rests_until is None:
                poller.register(connection.socket, zmq.POLLIN)
                poller.register(connection.monitor, zmq.POLLIN)
        stirred: set[object] = {socket for socket, _ in poller.poll(int(TICK * 1000))}
        # Empty the pipe, then lower the flag, then look: who finds the flag up in between has changed what we are about to look
        # at. The other way round, a ring in between is swallowed and leaves the flag up, so that nobody rings any more.
        try:
            self._ear.recv(256)
        except OSError:
            pass
        self._rung = False
        return stirred

    def _send(self, now: float) -> None:
        requests, below = self._core.requests()
        if below is not None:
            for connection in self._connections:
                if connection.welcomed:
                    connection.put(m.Cancel(self._session, below))
        for request in requests:
            self._connections[request.node].put(m.Ask(self._session, request.epoch, request.indices))
        ping = now >= self._next_ping
        if ping:
            self._next_ping = now + PING_SECONDS
            self._ping += 1
            waited = int(self._core.waited(now) * 1000)
        for connection in self._connections:
            connection.return_blocks()
            if ping and connection.given_up:  # now and then: the server may have been given the right keys meanwhile
                connection.close()
                connection.open(self._hello(connection))
            if ping and connection.welcomed:
                connection.put(m.Ping(self._ping, waited))
            connection.flush()

    def _hello(self, connection: Connection) -> m.Hello:
        return m.Hello(m.WIRE_VERSION, self._client, self._name, connection.holds())

    def _happened(self, number: int, connection: Connection, happening: str) -> None:
        if happening == "connected":
            return  # what counts is the Welcome
        if happening == "lost":
            self._reconnect(number, connection, "the connection broke")
        else:
            self._core.failed(number, AuthenticationError(f"{connection.endpoint}: {happening}"))

    def _begin_anew(self, number: int, connection: Connection, why: str, now: float) -> None:
        """The node was away, or we were. Once that is no wonder; a node that never knows us must neither keep us busy nor waiting."""
        count, last = self._stale.get(number, (0, now))
        count = 1 if now - last > STALE_SECONDS else count + 1
        self._stale[number] = count, now
        if count > MOST_STALE:
            text = f"the server at {connection.endpoint} has let us in {MOST_STALE + 1} times and then did not know us any more: restart it"
            self._core.failed(number, NodeUnreachable(text))
        if count == 1:
            self._reconnect(number, connection, why)
            return
        self._core.lost(number, why)
        connection.close()
        connection.rests_until = now + REST_SECONDS

    def _reconnect(self, number: int, connection: Connection, why: str) -> None:
        self._core.lost(number, why)
        connection.close()
        connection.open(self._hello(connection))

    def _take(self, number: int, connection: Connection, message: m.ToClient | tuple[m.Part | m.Inline | m.Lent, Payload]) -> None:
        core = self._core
        if isinstance(message, tuple):
            batch, payload = message
            self._stale.pop(number, None)
            core.arrived(number, batch.epoch, batch.index, payload, batch.seconds)
            return
        match message:
            case m.Welcome():
                core.connected(number)
                connection.put(m.Open(self._session, core.options.source, connection.maps, available(), connection.near))
            case m.Opened():
                core.opened(number, message)
            case m.Failed():
                core.failed_batch(number, message)
            case m.Ended():
                core.ended(number, message.epoch, message.index)
            case m.HandedBack():
                core.handed_back(number, message)
            case m.Verdict():
                core.judged(number, message)
            case m.Workers():
                core.workers(number, message.count)
            case m.Progress():
                core.progress(number, message.text)
            case m.Unknown():
                raise Stale("the server does not know this session any more")
            case m.Refuse() | m.Goodbye():
                self._refused(number, message)

    def _refused(self, number: int, message: m.Refuse | m.Goodbye) -> None:
        if message.kind:
            self._last_word = of_kind(message.kind, message.text, getattr(message, "builtins", ()))
            self._core.failed(number, self._last_word)
        else:
            self._core.lost(number, f"the server was stopped ({message.text})")
            self._connections[number].leave()  # it waits for that, for a while

    def _shut(self) -> None:
        for connection in self._connections:
            if connection.welcomed:
                connection.return_blocks()
                connection.put(m.Close(self._session))
                connection.put(m.Leave())
            try:
                connection.close()
            except (zmq.ZMQError, AttributeError) as e:  # it never opened
                log.debug("closing %s: %s", connection.endpoint, e)
            if connection.loan is not None:
                connection.loan.reader.close()  # Windows doesn't remove a file that somebody has mapped
        self._context.term()
        self._ear.close()
        self._bell.close()
