"""One connection to one node, as the receiver thread sees it: socket, handshake, the pieces of large batches.

A connection that breaks gets a new socket: the old one would send what is still queued in it before our Hello.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zmq

from feeder_client.payload import Borrowed, Broken, Bytes, Loan, Owned, Payload, small
from feeder_wire import client_frames, codec, frames
from feeder_wire import messages as m
from feeder_wire.arena import ArenaReader
from feeder_wire.errors import ProtocolError, UnsupportedBatch, VersionMismatch
from feeder_wire.greeting import mechanism_at
from feeder_wire.packing import is_packed, unpack
from feeder_wire.security import KeyPair, secure_client
from feeder_wire.sockets import event_on, set_limits

log = logging.getLogger("feeder.client")

_LINGER_MS = 500
_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
_HANDSHAKES_BEFORE_BLAME = 3
"""A server that closes connections during the handshake may be starting; after so many in a row it is the keys, if there is a server."""


class Stale(Exception):
    """The node was away, or we were: begin anew."""


@dataclass(slots=True)
class _Pieces:
    """A large batch that is coming in parts."""

    data: Bytes
    come: int = 0


@dataclass(frozen=True, slots=True)
class Keys:
    """What a client shows, and whom it trusts."""

    own: KeyPair
    server: bytes


@dataclass(slots=True)
class Connection:
    """See the module. All methods are for the receiver thread.

    Args:
        endpoint: the node's.
        context: the client's.
        keys: CURVE, or None.
        allow_map: False: always bytes over the socket.
        wake: see `Loan`.
    """

    endpoint: str
    context: zmq.Context[Any]
    keys: Keys | None
    allow_map: bool
    wake: Callable[[], None]
    socket: zmq.Socket[bytes] = field(init=False)
    monitor: zmq.Socket[bytes] = field(init=False)
    loan: Loan | None = None
    welcomed: bool = False
    connected: bool = False
    near: bool = False  # to a node on this host
    maps: bool = False
    given_up: bool = False
    """After some failures of the handshake libzmq doesn't try again: a new socket has to."""
    rests_until: float | None = None  # closed, until then
    _nonce: str = ""
    _lent: set[str] = field(default_factory=set)  # blocks that the node believes to be ours
    _bad_handshakes: int = 0
    _known: bool = False  # a node has let us in there, so who hangs up now is a relay in front of one that is away
    _misses: int = 0  # blocks in a row that could not be mapped
    _out: list[m.ToNode] = field(default_factory=list)
    _pieces: dict[tuple[bytes, int, int], _Pieces] = field(default_factory=dict)

    def open(self, hello: m.Hello) -> None:
        """A fresh socket; the Hello leaves as soon as the node can be reached."""
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = _LINGER_MS
        self.socket.sndhwm = self.socket.rcvhwm = 0  # bounded by the window
        set_limits(self.socket)
        self.socket.reconnect_ivl, self.socket.reconnect_ivl_max = 50, 1000
        self.socket.handshake_ivl = 5000
        if self.keys is not None:
            secure_client(self.socket, self.keys.own, self.keys.server)
        self.monitor = self.socket.get_monitor_socket(_EVENTS)
        self.socket.connect(self.endpoint)
        self.welcomed = self.connected = self.given_up = False
        self.rests_until = None
        self._pieces.clear()
        self._out = [hello]
        self.flush()

    def put(self, message: m.ToNode) -> None:
        """Gather a message for the next `flush`."""
        self._out.append(message)

    def flush(self) -> None:
        """Send what was gathered."""
        if self._out:
            try:
                self.socket.send(frames.pack(self._out), zmq.NOBLOCK)
            except zmq.Again:
                # Never for want of room: the socket has no connection any more, nor tries for one. That is how libzmq ends one whose
                # handshake was refused, or whose peer broke the protocol, maybe before our first word; the monitor tells which.
                # A send that waits would do so for ever.
                self.given_up = True
            self._out.clear()

    def leave(self) -> None:
        """The node has said goodbye: say it too. What it sent before has been taken in."""
        if self.welcomed:
            self.put(m.Leave())
            self.flush()
            self.welcomed = False

    def return_blocks(self) -> None:
        """Send home the blocks that nobody looks at any more."""
        if self.loan is not None and self.welcomed and self.loan.returned:
            names = []
            while self.loan.returned:
                name = self.loan.returned.popleft()
                # A block given back while we were cut off was missing in our Hello, and that freed it: by now it may be lent again.
                if name in self._lent:
                    self._lent.discard(name)
                    names.append(name)
            self._out.append(m.Release(tuple(names)))

    def happenings(self) -> Iterator[str]:
        """What the monitor saw: ``connected``, ``lost``, or a sentence about keys that don't fit."""
        while self.monitor.poll(0):
            event = event_on(self.monitor)
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.connected, self._bad_handshakes = True, 0
                yield "connected"
            elif event == zmq.EVENT_DISCONNECTED and self.connected:
                self.connected = False
                yield "lost"
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self.given_up = True
                yield "the server refused this client's key: is its public key among the server's --authorized-clients?"
            elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                self.given_up = True
                yield self._blame()
            elif event == zmq.EVENT_DISCONNECTED and not self.given_up and self._refuses_handshakes():
                yield self._blame()

    def _refuses_handshakes(self) -> bool:
        """One more was closed without a word. Is that because of the keys?"""
        self._bad_handshakes += 1
        if self._known or self._bad_handshakes < _HANDSHAKES_BEFORE_BLAME:
            return False
        self._bad_handshakes = 0
        mechanism = mechanism_at(self.endpoint)
        if mechanism is None:  # nobody is there, or the line is bad
            return False
        return self.keys is not None or mechanism != "NULL"  # where nobody has keys the line is bad

    def _blame(self) -> str:
        if self.keys is None:
            return "what listens there wants keys, or is no feeder-server: pass keys= and server_key= if the server has --keys"
        return "the handshake fails: the server has another key than server_key= says, or no keys at all, or is no feeder-server"

    def receive(self) -> Iterator[m.ToClient | tuple[m.Part | m.Inline | m.Lent, Payload]]:
        """All that has come in. Batches come with their payload, parts of batches not at all before the last one.

        Raises:
            ProtocolError: what came is no message of a node.
            VersionMismatch: it is one of another version.
            Stale: a block is gone that it speaks of.
        """
        while True:
            try:
                first, *rest = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            for message in self._unpack(first):
                if isinstance(message, m.Inline):
                    yield message, _owned(message.head, small(message.data))
                elif isinstance(message, m.Lent):
                    yield message, self._borrow(message)
                elif isinstance(message, m.Part):
                    whole = self._piece(message, rest)
                    if whole is not None:
                        yield message, whole
                else:
                    if isinstance(message, m.Welcome):
                        self._welcome(message)
                    elif isinstance(message, m.Retired) and self.loan is not None:
                        self.loan.forget(message.blocks)
                    yield message

    def _unpack(self, frame: zmq.Frame) -> list[m.ToClient]:
        try:
            return frames.unpack(frame.buffer, client_frames.TO_CLIENT)
        except ProtocolError as e:
            self._check_version(client_frames.first_version([frame.buffer]))
            raise ProtocolError(f"what listens at {self.endpoint} does not talk as a feeder-server does ({e})") from None

    def _check_version(self, version: int | None) -> None:
        if version is not None and version != m.WIRE_VERSION:
            older = "client" if version > m.WIRE_VERSION else "server"
            text = f"the server at {self.endpoint} speaks version {version} of feeder's protocol, this client version {m.WIRE_VERSION}"
            raise VersionMismatch(f"{text}: upgrade the {older}")

    def _welcome(self, welcome: m.Welcome) -> None:
        self._check_version(welcome.version)
        if self.loan is None or welcome.nonce != self._nonce:
            # Another node, or the same one restarted: block names begin anew, and what is still held belongs to the old one.
            reader = ArenaReader(welcome.directories)
            self.near = reader.same_host(welcome.nonce)
            self.maps = self.allow_map and self.near
            self.loan = Loan(reader, welcome.lend_bytes, self.wake)
            self._lent.clear()
            self._nonce = welcome.nonce
        self.welcomed = self._known = True

    def _borrow(self, lent: m.Lent) -> Payload:
        if self.loan is None or not self.maps:
            raise ProtocolError("a block was lent to a client that can't map it")
        try:
            mapped = self.loan.accept(lent)
        except ProtocolError as e:
            # We slept for longer than our lease, and the node has removed what it had sent us. If it happens at once again, it is
            # something else: then the bytes have to come over the socket.
            self._misses += 1
            if self._misses > 1:
                log.warning("%s: %s; going on without shared memory", self.endpoint, e)
                self.allow_map = self.maps = False
            raise Stale(str(e)) from None
        self._misses = 0
        self._lent.add(lent.block)
        if is_packed(lent.head):  # it was made for us while we could not map blocks
            try:
                return _owned(lent.head, np.frombuffer(mapped, np.uint8, lent.nbytes))
            finally:
                self.loan.give_back(lent.block)
        return Borrowed(lent.head, mapped, lent.nbytes, lent.block, self.loan)

    def _piece(self, part: m.Part, rest: list[zmq.Frame]) -> Payload | None:
        key = (part.session, part.epoch, part.index)
        if len(rest) != 1:
            raise ProtocolError("a part without its bytes")
        chunk = np.frombuffer(rest[0].buffer, np.uint8)
        if part.offset == 0:
            if self._pieces:
                raise ProtocolError("a batch began before the parts of another one had come")
            try:
                self._pieces[key] = _Pieces(codec.aligned_empty(part.nbytes))
            except MemoryError:
                raise ProtocolError(f"there is no memory for a batch of {part.nbytes} bytes") from None
        pieces = self._pieces.get(key)
        if pieces is None or pieces.come != part.offset or part.offset + len(chunk) > len(pieces.data):
            raise ProtocolError("parts of a batch are out of order")
        pieces.data[part.offset : part.offset + len(chunk)] = chunk
        pieces.come += len(chunk)
        if pieces.come < len(pieces.data):
            return None
        del self._pieces[key]
        return _owned(part.head, pieces.data)

    def holds(self) -> tuple[str, ...]:
        """Blocks in hand, for the next Hello. From then on the node takes all others for free."""
        found = self.loan.holds if self.loan is not None else ()
        self._lent = set(found)
        return found

    def close(self) -> None:
        """Send what was gathered, and close. May be called again."""
        if self.socket.closed:
            return
        try:
            self.flush()
        except zmq.ZMQError as e:  # pragma: no cover - the context is being torn down
            log.debug("closing %s: %s", self.endpoint, e)
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close()
        self.welcomed = self.connected = False


def _owned(head: bytes, data: Bytes) -> Payload:
    """A batch whose bytes are here, and unpacked, if they were packed: in this thread, for the training has other things to do."""
    if is_packed(head):
        try:
            head, data = unpack(head, data)
        except UnsupportedBatch as e:  # this machine lacks a dtype: no fault of the connection's, and told where the batch is opened
            return Broken(e.with_traceback(None), len(data))
    return Owned(head, data, len(data))
