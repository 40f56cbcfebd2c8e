"""What is gathered for one client, cut into messages that it will take. PURE."""

from __future__ import annotations

from collections.abc import Iterator

from feeder_wire import messages as m

PORTION_BYTES = m.CHUNK_BYTES
"""Of what is gathered in one message, for the same reasons."""


def portions(batch: list[m.ToClient]) -> Iterator[list[m.ToClient]]:
    """The messages, in order, in portions: above `frames.MAX_FRAME` the client's socket would hang up, and so it would for too many."""
    portion: list[m.ToClient] = []
    nbytes = 0
    for message in batch:
        size = _size(message)
        if portion and (nbytes + size > PORTION_BYTES or len(portion) >= m.MAX_ITEMS):
            yield portion
            portion, nbytes = [], 0
        portion.append(message)
        nbytes += size
    if portion:
        yield portion


def _size(message: m.ToClient) -> int:
    """About how many bytes it takes on the wire."""
    match message:
        case m.Inline():
            return len(message.head) + len(message.data)
        case m.Lent():
            return len(message.head)
        case m.Failed():
            return 4 * (len(message.error.message) + len(message.error.traceback))  # characters, at most
        case m.Status():
            return len(message.text)
    return 0
