"""A worker's socket to its node.

The worker connects to a loopback port and shows the token it got through its stdin pipe. Results are gathered and sent together;
`flush` is called as soon as there is nothing else to do, so gathering never costs time.
"""

from __future__ import annotations

from typing import Any

import zmq

from feeder_wire import frames
from feeder_wire import worker_messages as w

GATHER = 64
"""At most so many results in one message."""


class NodeLink:
    """One worker's connection. One thread."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 1000
        self._socket.sndhwm = self._socket.rcvhwm = 0  # bounded by the tasks that the node hands out
        self._socket.connect(endpoint)
        self._out: list[Any] = []

    def receive(self, seconds: float) -> list[w.ToWorker]:
        """All messages that are there; waits at most `seconds` for the first."""
        if not self._socket.poll(int(seconds * 1000)):
            return []
        found: list[w.ToWorker] = []
        while True:
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return found
            found += frames.unpack(frame, frames.TO_WORKER)

    def put(self, message: w.FromWorker) -> None:
        """Gather a message for the next `flush`."""
        self._out.append(message)
        if len(self._out) >= GATHER:
            self.flush()

    def flush(self) -> None:
        """Send what was gathered."""
        if self._out:
            self._socket.send(frames.pack(self._out))
            self._out.clear()

    def close(self) -> None:
        """Send what was gathered, wait at most a second for it to leave, and close."""
        self.flush()
        self._socket.close()
        self._context.term()
