"""A connection that only looks: what `feeder-server status` asks a running node with.

    greeting ──▶ is it ZeroMQ? with keys? ──▶ Hello ──▶ Welcome ──▶ Look ──▶ Status, again and again ──▶ Leave

Not the connection of a client: it opens no session, takes no batch, and tells one from another why there is no answer. libzmq itself
says little of a handshake that fails, so the peer's greeting is read first, by a plain socket.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import zmq

from feeder_server.report import Report, from_text
from feeder_server.status_text import shown
from feeder_wire import client_frames, frames
from feeder_wire import messages as m
from feeder_wire.errors import AuthenticationError, NodeUnreachable, ProtocolError, VersionMismatch
from feeder_wire.greeting import address, mechanism_on
from feeder_wire.security import KeyPair, check_endpoint, secure_client
from feeder_wire.sockets import event_on, set_limits

_GREETING_SECONDS = 2.0  # libzmq answers by itself, however busy the node is
_AGAIN_SECONDS = 0.1
_EVENTS = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


@dataclass(frozen=True, slots=True)
class Keys:
    """What we show, and whom we trust."""

    own: KeyPair
    server: bytes


class Visitor:
    """Looks at one node; use it in a ``with``. One thread.

    Args:
        endpoint: of the node.
        keys: for a node with keys.
        timeout: seconds that each answer may take.

    Raises:
        NodeUnreachable: nothing answers there within `timeout`, or what does is no feeder-server.
        AuthenticationError: the keys don't fit.
        VersionMismatch: the node speaks another version of the wire, or is too old to be asked.
    """

    def __init__(self, endpoint: str, keys: Keys | None = None, timeout: float = 5.0) -> None:
        check_endpoint(endpoint)
        self.endpoint = endpoint
        self._keys = keys
        self._timeout = timeout
        deadline = time.monotonic() + timeout
        check_mechanism(endpoint, mechanism_of(endpoint, deadline, timeout), keys is not None)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 200
        set_limits(self._socket)
        if keys is not None:
            secure_client(self._socket, keys.own, keys.server)
        self._monitor = self._socket.get_monitor_socket(_EVENTS)
        try:
            self._socket.connect(endpoint)
            hello = m.Hello(m.WIRE_VERSION, secrets.token_bytes(16), f"feeder-server status, pid {os.getpid()} on {socket.gethostname()}")
            self._send(hello)
            self._wait_for(m.Welcome, deadline)
        except BaseException:
            self.close()
            raise

    def look(self) -> Report:
        """Ask how the node is. Raises as the class does."""
        self._send(m.Look())
        status: m.Status = self._wait_for(m.Status, time.monotonic() + self._timeout)
        try:
            return from_text(status.text)
        except ValueError as e:
            raise VersionMismatch(
                f"the status of the server at {self.endpoint} can't be read ({e}): another version of feeder runs there"
            ) from None

    def _send(self, message: m.ToNode) -> None:
        # A socket whose connection was refused has none any more, and would wait for ever. Whoever waits for an answer is told why.
        with suppress(zmq.Again):
            self._socket.send(frames.pack([message]), zmq.NOBLOCK)

    def _wait_for(self, kind: type[Any], deadline: float) -> Any:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                what = f"the server at {self.endpoint} does not answer any more"
                if kind is m.Welcome:
                    what = f"what listens at {self.endpoint} speaks ZeroMQ, and does not answer as a feeder-server does"
                raise NodeUnreachable(f"{what} (waited for {self._timeout:g} s)")
            # In short turns: on Windows Ctrl-C is not seen inside of a poll.
            for ready, _ in poller.poll(int(min(left, 0.1) * 1000) + 1):
                if ready is self._monitor:
                    self._look_at_handshake()
                    continue
                for message in self._unpack(self._socket.recv_multipart()):
                    self._check(message)
                    if isinstance(message, kind):
                        return message

    def _look_at_handshake(self) -> None:
        event = event_on(self._monitor)
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            raise AuthenticationError(
                f"the server at {self.endpoint} refused the key of --keys: put its public .key file into the folder that the server "
                "has as --authorized-clients, and restart the server"
            )
        if self._keys is not None:
            raise AuthenticationError(
                f"the server at {self.endpoint} has another key than --server-key says: take its own public .key file"
            )
        raise NodeUnreachable(f"what listens at {self.endpoint} broke off the handshake: is that the port of a feeder-server?")

    def _unpack(self, received: list[bytes]) -> list[m.ToClient]:
        try:
            return frames.unpack(received[0], client_frames.TO_CLIENT)
        except ProtocolError as e:
            version = client_frames.first_version(received)
            if version is not None and version != m.WIRE_VERSION:
                raise self._mismatch(version) from None
            raise NodeUnreachable(f"what listens at {self.endpoint} speaks ZeroMQ, and not as a feeder-server does ({e})") from None

    def _check(self, message: m.ToClient) -> None:
        match message:
            case m.Welcome() if message.version != m.WIRE_VERSION:
                raise self._mismatch(message.version)
            case m.Refuse("VersionMismatch"):
                raise VersionMismatch(f"{self.endpoint}: {shown(message.text).replace('the client', 'this feeder-server')}")
            case m.Refuse():
                raise VersionMismatch(f"the server at {self.endpoint} can't be asked for its status; upgrade it ({shown(message.text)})")
            case m.Unknown():
                raise NodeUnreachable(f"the server at {self.endpoint} was restarted meanwhile, or this machine slept: ask again")
            case m.Goodbye():
                raise NodeUnreachable(f"the server at {self.endpoint} has ended: {shown(message.text)}")

    def _mismatch(self, version: int) -> VersionMismatch:
        older = "this feeder-server" if version > m.WIRE_VERSION else "the server"
        text = f"the server at {self.endpoint} speaks version {version} of feeder's protocol, this one version {m.WIRE_VERSION}"
        return VersionMismatch(f"{text}: upgrade {older}")

    def close(self) -> None:
        """Say that we leave, so that the node forgets us at once, and close."""
        self._send(m.Leave())
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def mechanism_of(endpoint: str, deadline: float, timeout: float) -> str:
    """How what listens at an endpoint wants to be spoken to: ``"NULL"``, ``"CURVE"``; or "" where it is not ZeroMQ.

    Raises:
        NodeUnreachable: nothing listens there until `deadline`; `timeout` is for the message.
    """
    why: object = ""
    while (left := deadline - time.monotonic()) > 0:
        try:
            connection = socket.create_connection(address(endpoint), timeout=left)
        except (OSError, UnicodeError) as e:  # UnicodeError: a host name that can't be one
            why = e
            time.sleep(min(_AGAIN_SECONDS, max(0.0, deadline - time.monotonic())))  # it may just be starting
            continue
        with connection:
            return mechanism_on(connection, min(deadline, time.monotonic() + _GREETING_SECONDS)) or ""
    detail = getattr(why, "strerror", None) or why or "no answer"
    raise NodeUnreachable(f"nothing answers at {endpoint} (tried for {timeout:g} s: {detail}): is the server up, and is that its endpoint?")


def check_mechanism(endpoint: str, mechanism: str, keys: bool) -> None:
    """Raise unless what was greeted may be a node, and wants keys where we have them."""
    if mechanism not in ("NULL", "CURVE"):
        cure = "give the endpoint that 'feeder-server serve' has printed"
        raise NodeUnreachable(f"what listens at {endpoint} is no feeder-server, it does not speak ZeroMQ: {cure}")
    if mechanism == "CURVE" and not keys:
        raise AuthenticationError(
            f"what listens at {endpoint} wants keys: give --keys (a client's .key_secret file) and --server-key (its own .key file)"
        )
    if mechanism == "NULL" and keys:
        raise AuthenticationError(f"the server at {endpoint} has no keys: leave out --keys and --server-key, or start it with --keys")
