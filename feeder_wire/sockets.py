"""What all sockets between clients and nodes have in common."""

from __future__ import annotations

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
