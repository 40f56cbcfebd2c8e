"""A client in the node's own process and thread, for `feeder-server check`: it draws batches and looks into none.

Batches come the way that they go to a trainer on this machine: as a small message, or as a block that is lent, which is given back at
once. So what is measured is the making, the encoding and the writing, not the reading.
"""

from __future__ import annotations

import secrets
from types import TracebackType

import zmq

from feeder_wire import client_frames, frames
from feeder_wire import messages as m


class Drawing:
    """One session on one source of the node at `endpoint`; use it in a ``with``. The node has to be stepped for anything to come."""

    def __init__(self, endpoint: str, source: str) -> None:
        self._session = secrets.token_bytes(16)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 200
        self._socket.sndhwm = self._socket.rcvhwm = 0  # bounded by what is asked for
        self._socket.connect(endpoint)
        self._send(m.Hello(m.WIRE_VERSION, secrets.token_bytes(16), "feeder-server check"))
        self._send(m.Open(self._session, source, True))

    def ask(self, epoch: int, count: int) -> None:
        """Ask for the first `count` batches of a pass; of a stream, for its next."""
        self._send(m.Ask(self._session, epoch, tuple(range(count))))

    def keep_alive(self) -> None:
        """Keep the lease, whatever it is that takes so long. To be called every few seconds."""
        self._send(m.Ping(0))

    def receive(self) -> list[m.ToClient]:
        """All that has come in; blocks have been given back."""
        found: list[m.ToClient] = []
        while True:
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return found
            messages = frames.unpack(frame, client_frames.TO_CLIENT)
            lent = tuple(message.block for message in messages if isinstance(message, m.Lent))
            if lent:
                self._send(m.Release(lent))
            found += messages

    def _send(self, message: m.ToNode) -> None:
        self._socket.send(frames.pack([message]))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Drawing:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
