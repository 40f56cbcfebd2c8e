"""Who is there? Asked with a plain socket where ZeroMQ only says that a handshake has failed.

A relay (of docker, ssh or a load balancer) accepts connections for a server that is away, and hangs up without a word; over a bad line
a handshake takes too long. Neither is a matter of keys. A server where it is greets as soon as it is greeted, and names its mechanism.
"""

from __future__ import annotations

import socket
import time

_GREETING = b"\xff" + bytes(8) + b"\x7f\x03"  # ZMTP 3: signature and version; who hears of another mechanism than its own hangs up
_SIGNATURE = 10
_MECHANISM = slice(12, 32)
_SECONDS = 1.0  # the thread that asks has other connections to serve


def mechanism_at(endpoint: str) -> str | None:
    """What listens at ``tcp://host:port`` wants of who connects: ``"NULL"`` or ``"CURVE"``, or ``""`` if it doesn't speak ZMTP.

    None: nobody says anything, or not enough. Takes at most some two seconds.
    """
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    got = b""
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS) as connection:
            connection.sendall(_GREETING)
            deadline = time.monotonic() + _SECONDS
            while len(got) < _MECHANISM.stop and (left := deadline - time.monotonic()) > 0:
                connection.settimeout(left)
                piece = connection.recv(64)
                if not piece:
                    break
                got += piece
    except (OSError, UnicodeError, ValueError):  # it hung up, or said no more, or is no address
        pass
    if got and (got[:1] != _GREETING[:1] or got[_SIGNATURE - 1 : _SIGNATURE] not in (b"", _GREETING[_SIGNATURE - 1 : _SIGNATURE])):
        return ""
    if len(got) < _MECHANISM.stop:
        return None
    return got[_MECHANISM].rstrip(b"\0").decode("ascii", "backslashreplace")
