"""What all sockets between clients and nodes have in common."""

from __future__ import annotations

import struct
from typing import Any

from feeder_wire import frames


def set_limits(socket: Any) -> None:
    """No message is larger than one that is read, and a connection that is silent for too long is given up.

    Args:
        socket: of ZeroMQ; this package doesn't import it.
    """
    socket.maxmsgsize = frames.MAX_FRAME
    socket.heartbeat_ivl = int(frames.HEARTBEAT_SECONDS * 1000)
    socket.heartbeat_timeout = int(frames.DEAD_SECONDS * 1000)


def event_on(monitor: Any) -> int:
    """The next event of a monitor socket, one of zmq's ``EVENT_...``; waits for it.

    Not ``zmq.utils.monitor``, which loads all of asyncio, a fifth of what importing a client takes. Its first frame is the event's number
    (16 bit) and a value (32 bit) in the machine's order (zmq_socket_monitor(3)).
    """
    event: int = struct.unpack("=hi", monitor.recv_multipart()[0])[0]
    return event
