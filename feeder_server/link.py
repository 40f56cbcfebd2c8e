"""A worker's socket to its node.

The worker connects to a loopback port and shows the token it got through its stdin pipe. Results of quick batches are gathered and
sent together, when there is nothing else to do; and if the next batch turns out to be a slow one, a second thread sends them while
it is being made. A socket belongs to one thread, so both take turns under a lock.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import zmq

from feeder_wire import frames, worker_frames
from feeder_wire import worker_messages as w

GATHER = 64
"""At most so many results in one message."""

GATHER_SECONDS = 0.005
"""No result waits longer than this for those after it, as far as can be foreseen,"""
LATE_SECONDS = 0.010
"""nor longer than this where it can't."""


class NodeLink:
    """One worker's connection. For one thread, which calls the methods."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 1000
        self._socket.sndhwm = self._socket.rcvhwm = 0  # bounded by the tasks that the node hands out
        self._socket.connect(endpoint)
        self._out: list[Any] = []
        self._lock = threading.Lock()
        self._since = 0.0  # when the first of them was put there
        self._gathered = threading.Event()
        self._closed = threading.Event()
        self._late = threading.Thread(target=self._send_late, name="feeder-late", daemon=True)
        self._late.start()

    def receive(self, seconds: float) -> list[w.ToWorker]:
        """All messages that are there; waits at most `seconds` for the first."""
        found: list[w.ToWorker] = []
        with self._lock:
            while self._socket.poll(0 if found else int(seconds * 1000)):
                found += frames.unpack(self._socket.recv(), worker_frames.TO_WORKER)
        return found

    def put(self, message: w.FromWorker) -> None:
        """Gather a message for the next `flush`."""
        with self._lock:
            if not self._out:
                self._since = time.perf_counter()
            self._out.append(message)

    def put_off(self, seconds: float) -> None:
        """Something comes next that takes about `seconds`: send what was gathered if it would be late then, else leave it for later.

        Should that take longer, it leaves by itself.
        """
        if not self._out:
            return
        if len(self._out) >= GATHER or time.perf_counter() - self._since + seconds > GATHER_SECONDS:
            self.flush()
        elif not self._gathered.is_set():
            self._gathered.set()

    def flush(self) -> None:
        """Send what was gathered."""
        with self._lock:
            if self._out:
                self._socket.send(frames.pack(self._out))
                self._out.clear()

    def _send_late(self) -> None:
        while not self._closed.is_set():
            self._gathered.wait()
            self._gathered.clear()
            while (left := self._left()) > 0 and not self._closed.wait(left):
                pass
            if not self._closed.is_set():
                self.flush()

    def _left(self) -> float:
        """Seconds until what was gathered is late; 0: it is, or there is nothing."""
        with self._lock:
            return max(0.0, self._since + LATE_SECONDS - time.perf_counter()) if self._out else 0.0

    def close(self) -> None:
        """Send what was gathered, wait at most a second for it to leave, and close."""
        self._closed.set()
        self._gathered.set()
        self._late.join()
        self.flush()
        self._socket.close()
        self._context.term()
