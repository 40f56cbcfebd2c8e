"""Is anybody there at all? Asked with a plain socket where ZeroMQ only says that somebody hung up.

A relay (of docker, ssh or a load balancer) accepts connections for a server that is away, and hangs up without a word. A server hangs up as
well, where the keys don't fit; but it greets first, and so does what is no feeder-server, one way or another.
"""

from __future__ import annotations

import socket

_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"  # what a peer that speaks ZMTP says first
_SECONDS = 1.0  # the thread that asks has other connections to serve


def says_something(endpoint: str) -> bool:
    """Whether what listens at ``tcp://host:port`` says anything to one who speaks ZMTP. Takes at most some two seconds."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS) as connection:
            connection.sendall(_SIGNATURE)
            return bool(connection.recv(1))
    except (OSError, UnicodeError, ValueError):  # it hung up, or said nothing, or is no address
        return False
