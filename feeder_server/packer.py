"""A worker's end of compression: which batches are packed for a client on a slow line, and with what.

The node says with each task what the client takes, and how quick its line is (line.py); a sample of the source's batches says what a method
saves and what it costs. Packing pays if batches then come at shorter intervals: the line is busy for less time, and the workers for
more. That is a matter of numbers alone, see `best`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from feeder_wire import packing
from feeder_wire.codec import Encoded
from feeder_wire.fields import INLINE_BYTES

log = logging.getLogger("feeder.worker")

SAMPLE_EVERY = 256
"""Batches after which it is looked again: data change, and so do lines."""
WORTH = 0.8
"""The interval has to become shorter than this times what it was. Less is noise, and not worth the cores."""
UNPACKING = 0.5
"""Of the time that packing takes; measured, lz4 and zstd on arrays: 0.1 to 0.5."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a method has made of a sample.

    Attributes:
        method: its name.
        share: packed size by size.
        seconds: that it took.
    """

    method: str
    share: float
    seconds: float


def best(trials: Sequence[Trial], nbytes: int, line: int, seconds: float, workers: int) -> str:
    """Choose a method. PURE.

    Args:
        trials: of one batch each.
        nbytes: of the batch.
        line: bytes per second to the client; 0: packing is wanted however quick that is.
        seconds: that making the batch took.
        workers: that make batches at the same time.

    Returns:
        The method's name; empty where none pays.
    """
    if not line:
        return min(trials, key=lambda trial: trial.share).method if trials else ""
    found, shortest = "", WORTH * max(nbytes / line, seconds / workers)
    for trial in trials:
        interval = max(trial.share * nbytes / line, (seconds + trial.seconds) / workers, UNPACKING * trial.seconds)
        if interval < shortest:
            found, shortest = trial.method, interval
    return found


@dataclass(slots=True)
class _Chosen:
    method: str
    methods: tuple[str, ...]
    line: int
    left: int  # batches before it is looked again


class Packer:
    """See the module. One thread."""

    def __init__(self) -> None:
        self._chosen: dict[tuple[int, bytes], _Chosen] = {}

    def pack(
        self, what: tuple[int, bytes], encoded: Encoded, methods: tuple[str, ...], line: int, seconds: float, workers: int
    ) -> tuple[bytes, bytes] | None:
        """Pack a batch, if that pays.

        Args:
            what: source and session.
            encoded: the batch.
            methods: that the client takes, and the server allows.
            line: see `best`.
            seconds: see `best`.
            workers: see `best`.

        Returns:
            The head and the payload to send; None: as it is.
        """
        if not methods or encoded.nbytes <= INLINE_BYTES:
            return None
        chosen = self._chosen.get(what)
        if chosen is None or chosen.methods != methods or chosen.left <= 0 or _others(chosen.line, line):
            return self._choose(what, encoded, methods, line, seconds, workers)
        chosen.left -= 1
        return packing.pack(encoded.head, encoded.to_bytes(), chosen.method) if chosen.method else None

    def drop(self, session: bytes) -> None:
        """A session has ended."""
        for what in [what for what in self._chosen if what[1] == session]:
            del self._chosen[what]

    def _choose(
        self, what: tuple[int, bytes], encoded: Encoded, methods: tuple[str, ...], line: int, seconds: float, workers: int
    ) -> tuple[bytes, bytes] | None:
        data, trials, made = encoded.to_bytes(), [], {}
        for method in methods:
            started = time.perf_counter()
            packed = packing.pack(encoded.head, data, method)
            took = time.perf_counter() - started
            if packed is not None:
                made[method] = packed
                trials.append(Trial(method, len(packed[1]) / len(data), took))
        method = best(trials, len(data), line, seconds, workers)
        before = self._chosen.get(what)
        self._chosen[what] = _Chosen(method, methods, line, SAMPLE_EVERY)
        if method and (before is None or before.method != method):
            at = f", for a line of {line / 1e6:.1f} MB/s" if line else ""
            log.info("batches are packed with %s to %.0f %% of their size%s", method, 100 * len(made[method][1]) / len(data), at)
        elif not method and before is not None and before.method:
            log.info("batches aren't packed any more: that doesn't pay for a line of %.1f MB/s", line / 1e6)
        return made.get(method)


def _others(old: int, new: int) -> bool:
    """Whether a line is another one than it was, more than lines are from one moment to the next."""
    return bool(old) != bool(new) or not old / 1.5 <= new <= old * 1.5
