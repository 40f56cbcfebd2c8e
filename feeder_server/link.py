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

LATE_SECONDS = 0.005
"""No result waits longer than this for the batch after it."""


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
        self._gathered = threading.Event()
        self._closed = False
        self._late = threading.Thread(target=self._send_late, name="feeder-late", daemon=True)
        self._late.start()

    def receive(self, seconds: float) -> list[w.ToWorker]:
        """All messages that are there; waits at most `seconds` for the first."""
        found: list[w.ToWorker] = []
        with self._lock:
            if seconds and not self._socket.poll(int(seconds * 1000)):
                return found
            while True:
                try:
                    frame = self._socket.recv(zmq.NOBLOCK)
                except zmq.Again:
                    return found
                found += frames.unpack(frame, worker_frames.TO_WORKER)

    def put(self, message: w.FromWorker) -> None:
        """Gather a message for the next `flush`."""
        with self._lock:
            self._out.append(message)
        if len(self._out) >= GATHER:
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
        while not self._closed:
            self._gathered.wait()
            self._gathered.clear()
            time.sleep(LATE_SECONDS)
            if not self._closed:
                self.flush()

    def close(self) -> None:
        """Send what was gathered, wait at most a second for it to leave, and close."""
        self._closed = True
        self._gathered.set()
        self._late.join()
        self.flush()
        self._socket.close()
        self._context.term()
