"""The node's private socket: its workers. A loopback port, on which only those are heard that show the token of this node."""

from __future__ import annotations

import logging
import secrets
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import zmq

from feeder_wire import frames, worker_frames
from feeder_wire import worker_messages as w
from feeder_wire.errors import ProtocolError

log = logging.getLogger("feeder.node")

MOST_STRANGERS = 100
"""Connections of other processes that are named in the log; those after them are ignored without a word."""


class Crew:
    """The ROUTER socket that the workers connect to."""

    def __init__(self, context: zmq.Context[Any]) -> None:
        self.token = secrets.token_bytes(32)
        self.socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self.socket.linger = 500
        self.socket.sndhwm = self.socket.rcvhwm = 0  # bounded by the tasks handed out
        self.socket.maxmsgsize = frames.MAX_FRAME
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self._slot_of: dict[bytes, tuple[int, int]] = {}
        self._identity: dict[int, bytes] = {}
        self._out: dict[int, list[w.ToWorker]] = defaultdict(list)
        self._strangers: set[bytes] = set()  # who is no worker of ours, and was named in the log

    def receive(self) -> Iterator[tuple[int, w.FromWorker]]:
        """All that has come in, as (slot, message); nothing of a worker that was replaced."""
        while True:
            try:
                identity, *rest = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if identity in self._strangers:
                continue
            try:
                found = frames.unpack(rest[0], worker_frames.FROM_WORKER) if len(rest) == 1 else []
            except ProtocolError as e:
                self._ignore(identity, "ignoring what is no worker's message: %s", e)
                continue
            for message in found:
                if isinstance(message, w.Joined):
                    if not secrets.compare_digest(message.token, self.token):
                        self._ignore(identity, "ignoring a process that is no worker of this node")
                        break
                    self._slot_of[identity] = (message.slot, message.generation)
                    self._identity[message.slot] = identity
                slot = self._slot_of.get(identity)
                if slot is None or self._identity.get(slot[0]) != identity:
                    break
                yield slot[0], message

    def _ignore(self, identity: bytes, text: str, *arguments: object) -> None:
        if identity in self._slot_of:  # one of ours: what it says next is still wanted
            log.warning(text, *arguments)
        elif len(self._strangers) < MOST_STRANGERS:
            self._strangers.add(identity)
            log.warning(text, *arguments)

    def put(self, slot: int, message: w.ToWorker) -> None:
        """Gather a message for the next `flush`."""
        self._out[slot].append(message)

    def flush(self) -> None:
        """Send what was gathered. What is meant for a worker that is gone is dropped: its loss is reported elsewhere."""
        for slot, batch in self._out.items():
            identity = self._identity.get(slot)
            if identity is not None:
                self.socket.send_multipart([identity, frames.pack(batch)])
        self._out.clear()

    def gone(self, slot: int) -> None:
        """The worker in `slot` has ended; what it still had on the way is not heard any more."""
        identity = self._identity.pop(slot, None)
        if identity is not None:
            self._slot_of.pop(identity, None)
        self._out.pop(slot, None)

    @property
    def present(self) -> set[int]:
        """Slots whose worker can be told something."""
        return set(self._identity)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()
