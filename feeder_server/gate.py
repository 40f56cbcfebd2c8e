"""The node's public socket: who the clients are, what they say, what they are sent.

    frames ──▶ receive() ──▶ (client, message), checked     put(client, message) ──▶ flush() ──▶ one message per client
                                                            ship(client, lent)   ──▶ parts straight from the block, no copy

A client is known by the 16 random bytes of its `Hello`, not by its connection: it may connect again. Only a client that said
Hello on its connection is heard. Peers that send nonsense are named once in the log and ignored from then on.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import zmq
from zmq.auth import Authenticator

from feeder_server.backlog import Backlog
from feeder_server.config import ServeConfig
from feeder_server.line import Line
from feeder_server.portions import portions
from feeder_server.sparing import Sparing
from feeder_wire import client_frames, frames
from feeder_wire import messages as m
from feeder_wire.arena import ArenaReader
from feeder_wire.errors import EndpointError, ProtocolError
from feeder_wire.security import secure_server
from feeder_wire.sockets import set_limits

log = logging.getLogger("feeder.node")

LEASE_SECONDS = 15.0
"""A client that has not been heard of for so long is forgotten; clients ping every few seconds."""
QUIET_SECONDS = 4.0
"""Longer than a client is silent."""
FRAME_BYTES = 100
"""That a message takes in ZeroMQ's queues besides its own, about."""
LEAST_QUOTA = 16 * 1024 * 1024
FIRST_OFFENDERS = 100
"""Peers that break the protocol, of which each has its line in the log."""
MOST_BANNED = 1024
"""Connections that are not heard any more, before it is looked which of them are still there."""
_LINGER_MS = 1000


@dataclass(slots=True)
class Peer:
    """A client: where it is, and when it was last heard of. `reads`: it has opened a session, and doesn't only ask how we are."""

    identity: bytes
    name: str
    seen: float
    reads: bool = False
    backlog: Backlog = field(default_factory=Backlog)
    line: Line = field(default_factory=Line)


@dataclass(frozen=True, slots=True)
class _Shipment:
    """A block whose bytes are being sent."""

    tracker: zmq.MessageTracker
    block: str
    client: bytes
    nbytes: int


class Gate:
    """The public ROUTER socket.

    Args:
        context: of the node.
        config: endpoint and keys.
        arena: reads the blocks that are sent in parts.

    Raises:
        EndpointError: the endpoint can't be bound.
    """

    def __init__(self, context: zmq.Context[Any], config: ServeConfig, arena: ArenaReader) -> None:
        self._arena = arena
        self._auth: Authenticator | None = None
        self.peers: dict[bytes, Peer] = {}
        self._client_of: dict[bytes, bytes] = {}  # identity of a connection -> client
        self._banned: set[bytes] = set()
        self._most_banned = MOST_BANNED
        self._offenders = Sparing(FIRST_OFFENDERS)
        self._unreachable: list[tuple[bytes, bytes]] = []  # (client, identity) whose connection has ended
        self.offended: list[bytes] = []  # clients that have broken the protocol: what was theirs can go
        self._out: dict[bytes, list[m.ToClient]] = defaultdict(list)
        self._shipping: list[_Shipment] = []
        self._quota = max(LEAST_QUOTA, config.memory // 4)  # of what one client has not fetched yet, before nothing more is made for it
        self._most = 2 * config.memory + LEAST_QUOTA  # and before it is not heard any more: it only asks, and never reads
        self.socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self.socket.linger = _LINGER_MS
        # Bounded by credits, not by counts: a full ROUTER drops silently, and every message here was asked for.
        self.socket.sndhwm = self.socket.rcvhwm = 0
        self.socket.router_mandatory = True  # a vanished client is an error at once, not a silent drop
        set_limits(self.socket)
        self.socket.copy_threshold = 0  # what has a tracker is not copied: a copy counts as sent at once
        if config.keys is not None:
            # Not pyzmq's ThreadAuthenticator: its thread needs an asyncio loop that Windows doesn't have by default.
            self._auth = Authenticator(context, log=logging.getLogger("feeder.auth"))
            self._auth.start()
            self._auth.configure_curve_callback(domain="*", credentials_provider=_Authorized(config.authorized))
            secure_server(self.socket, config.keys)
        try:
            self.socket.bind(config.bind)
        except zmq.ZMQError as e:
            self.close()
            raise EndpointError(_why_not_bound(config.bind, e)) from None
        self.endpoint: str = self.socket.last_endpoint.decode().rstrip("\0")

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What to poll."""
        return [self.socket] if self._auth is None else [self.socket, self._auth.zap_socket]

    def authenticate(self) -> None:
        """Answer libzmq's questions about the keys of those who connect."""
        while self._auth is not None:
            try:
                question = self._auth.zap_socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            answering = self._auth.handle_zap_message(question)
            # A coroutine for the sake of callbacks that wait; ours doesn't, so the first step is the whole way.
            with suppress(StopIteration):
                answering.send(None)

    def receive(self, now: float) -> Iterator[tuple[bytes, m.ToNode]]:
        """All that has come in, as (client, message). A client's first message is its `Hello`."""
        while True:
            try:
                identity, *rest = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if identity in self._banned:
                continue
            try:
                if len(rest) != 1:
                    raise ProtocolError(f"{len(rest)} frames where one was expected")
                yield from self._read(identity, rest[0], now)
            except ProtocolError as e:
                self._refuse(identity, rest, e)

    def _read(self, identity: bytes, frame: bytes, now: float) -> Iterator[tuple[bytes, m.ToNode]]:
        for message in frames.unpack(frame, client_frames.TO_NODE):
            if isinstance(message, m.Hello):
                if message.version != m.WIRE_VERSION:
                    raise ProtocolError("another version")
                old = self.peers.get(message.client)
                if old is not None:
                    self._client_of.pop(old.identity, None)
                self.peers[message.client] = Peer(identity, message.name, now)
                self._client_of[identity] = message.client
            client = self._client_of.get(identity)
            if client is None:
                # Its lease ran out while it slept, or it wrote before it saw that the connection was a new one: it begins anew.
                self._send(identity, [m.Unknown(bytes(16))])
                return
            self.peers[client].seen = now
            yield client, message

    def _refuse(self, identity: bytes, rest: list[bytes], error: ProtocolError) -> None:
        self._ban(identity)
        version = client_frames.first_version(rest) if rest else None
        if version is not None and version != m.WIRE_VERSION:
            older = "client" if version < m.WIRE_VERSION else "server"
            text = f"the client speaks version {version} of feeder's protocol, the server version {m.WIRE_VERSION}: upgrade the {older}"
            self._say("refused a client: %s", text)
            self._send(identity, [m.Refuse("VersionMismatch", text)])
        else:
            self._say("ignoring a peer that does not speak feeder's protocol: %s", error)
            self._send(identity, [m.Refuse("ProtocolError", str(error))])

    def _ban(self, identity: bytes) -> None:
        client = self._client_of.pop(identity, None)
        if client is not None:
            self.offended.append(client)
        if len(self._banned) >= self._most_banned:
            # Who has left comes back under another identity, if at all, and needs no place here. Who is there gets a Refuse once more.
            text = "you were refused before, and are not heard any more"
            self._banned = {one for one in self._banned if self._send(one, [m.Refuse("ProtocolError", text)])}
            self._most_banned = max(MOST_BANNED, 2 * len(self._banned))
        self._banned.add(identity)

    def _say(self, text: str, *arguments: object) -> None:
        """Log an offender, for who connects again and again sparingly."""
        more = self._offenders.next()
        if more is not None:
            log.warning(text + "%s", *arguments, more)

    def put(self, client: bytes, message: m.ToClient) -> None:
        """Gather a message for the next `flush`."""
        self._out[client].append(message)

    def say_goodbye(self, goodbye: m.Goodbye) -> None:
        """Send everybody the last word."""
        for client in list(self.peers):
            self.put(client, goodbye)
        self.flush()

    def flush(self) -> None:
        """Send what was gathered."""
        for client, batch in self._out.items():
            peer = self.peers.get(client)
            if peer is not None and not all(self._send(peer.identity, portion, peer.backlog) for portion in portions(batch)):
                self._unreachable.append((client, peer.identity))
        self._out.clear()

    def ship(self, client: bytes, lent: m.Lent) -> bool:
        """Send a block's bytes in parts; `shipped` tells when the socket is done with it. False: the client has vanished."""
        peer = self.peers.get(client)
        if peer is None or (self._out[client] and not self._send(peer.identity, self._out.pop(client), peer.backlog)):
            return False
        view = memoryview(self._arena.map(lent.block, lent.size))
        trackers = []
        now = time.monotonic()
        step = m.QUICK_CHUNK_BYTES if peer.line.quick(now) else m.CHUNK_BYTES
        for offset in range(0, lent.nbytes, step):
            part = m.Part(lent.session, lent.epoch, lent.index, lent.head, offset, lent.nbytes, lent.seconds)
            chunk = view[offset : min(offset + step, lent.nbytes)]
            try:
                self.socket.send_multipart([peer.identity, frames.pack([part])], zmq.SNDMORE)
                trackers.append(self.socket.send(chunk, copy=False, track=True))
            except zmq.ZMQError as e:
                if e.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                    return False
                raise
        # All of them, whatever pyzmq copies and then calls done: who has the block back writes it.
        peer.line.began(now)
        self._shipping.append(_Shipment(zmq.MessageTracker(*trackers), lent.block, client, lent.nbytes))
        return True

    def shipped(self) -> list[str]:
        """Blocks whose bytes have left since the last call."""
        done = [shipment for shipment in self._shipping if shipment.tracker.done]
        if done:
            self._shipping = [shipment for shipment in self._shipping if shipment not in done]
            now = time.monotonic()
            for shipment in done:
                if (peer := self.peers.get(shipment.client)) is not None:
                    peer.line.ended(now, shipment.nbytes)
        return [shipment.block for shipment in done]

    def congested(self) -> set[bytes]:
        """Clients that have not fetched what was made for them, by a slow line or because they don't read: nothing more is made for those.

        Else all the memory would be theirs, and the others, who read, would wait. To be asked after `receive`.
        """
        unsent = {client: peer.backlog.nbytes for client, peer in self.peers.items()}
        for client, nbytes in unsent.items():
            if nbytes > self._most:
                self._say("ignoring client %s: it asks and asks, and has not read %.0f MB", self.peers[client].name, nbytes / 1e6)
                self._ban(self.peers[client].identity)
        for shipment in self._shipping:
            unsent[shipment.client] = unsent.get(shipment.client, 0) + shipment.nbytes
        return {client for client, nbytes in unsent.items() if nbytes > self._quota}

    def lines(self, now: float) -> dict[bytes, int]:
        """Bytes per second to those clients whose line is the limit, as far as that is known."""
        return {client: rate for client, peer in self.peers.items() if (rate := peer.line.rate(now))}

    @property
    def busy(self) -> bool:
        """Are bytes under way whose end somebody waits for?"""
        return bool(self._shipping)

    def knock(self, now: float) -> None:
        """Send a word to those of whom nothing has been heard for a while: that their connection has ended shows when it is used."""
        for client, peer in self.peers.items():
            if now - peer.seen > QUIET_SECONDS:
                self.put(client, m.Pong(0))

    def gone(self, now: float) -> list[bytes]:
        """Clients whose connection has ended without a word, or whose lease has run out. To be asked after `receive`.

        A socket can't be written to any more before its last words have been read: only who is still here after that has vanished,
        and has not said goodbye, or come back on another connection.
        """
        ended = [client for client, identity in self._unreachable if client in self.peers and self.peers[client].identity == identity]
        self._unreachable.clear()
        return list({*ended, *(client for client, peer in self.peers.items() if now - peer.seen > LEASE_SECONDS)})

    def forget(self, client: bytes) -> None:
        """The client is gone."""
        peer = self.peers.pop(client, None)
        if peer is not None:
            self._client_of.pop(peer.identity, None)
        self._out.pop(client, None)

    def _send(self, identity: bytes, batch: list[Any], backlog: Backlog | None = None) -> bool:
        data = frames.pack(batch)
        try:
            if backlog is None or not backlog.due:
                self.socket.send_multipart([identity, data])
                tracker = None
            else:
                self.socket.send(identity, zmq.SNDMORE)
                tracker = self.socket.send(data, copy=False, track=True)
        except zmq.ZMQError as e:
            if e.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise
        if backlog is not None:
            backlog.sent(len(data) + FRAME_BYTES)
            if tracker is not None:
                backlog.mark(tracker)
        return True

    def close(self) -> None:
        """Close the socket; what was sent gets a second to leave."""
        self.socket.close()
        if self._auth is not None:
            self._auth.stop()


class _Authorized:
    """What pyzmq's authenticator asks: may this public key in?"""

    def __init__(self, keys: frozenset[bytes]) -> None:
        self._keys = keys

    def callback(self, domain: str, key: bytes) -> bool:
        return key in self._keys


def _why_not_bound(endpoint: str, error: zmq.ZMQError) -> str:
    # zmq's own number: on Windows it is not errno's.
    if error.errno == zmq.EADDRINUSE:
        return f"{endpoint} is in use: another server runs there; stop it, or give another port with --bind (port 0 takes a free one)"
    if error.errno in (zmq.EADDRNOTAVAIL, errno.ENODEV):
        return f"{endpoint} is not an address of this machine; give one that is with --bind, for example tcp://127.0.0.1:5555"
    return f"can't bind {endpoint}: {error.strerror}"
