"""Counters of one client, and what they mean in one sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """See `Stats`; changed with every batch, so no frozen thing."""

    batches: int = 0
    nbytes: int = 0
    wait_seconds: float = 0.0
    elapsed_seconds: float = 0.0
    compute_seconds: float = 0.0
    retries: int = 0
    reconnects: int = 0
    skipped: int = 0
    hedged: int = 0
    reads_ahead: bool = False


@dataclass(frozen=True, slots=True)
class Stats:
    """What a client has done so far. Durations in seconds.

    Attributes:
        batches: handed to the training.
        nbytes: payload of those.
        wait_seconds: time in which the training stood still for a batch that was not there.
        elapsed_seconds: from the first batch asked for to the last one handed out.
        compute_seconds: what making the batches took, summed over workers.
        owed, stored: batches asked for and not there, there and not taken.
        workers: of all nodes that serve this client now.
        nodes: connected now.
        borrowed_bytes: arena blocks in this process' hands.
        retries: batches asked for again because their node was lost, or is being stopped.
        reconnects: connections that broke and came back.
        skipped: batches that could not be had, with ``on_error="skip"``.
        hedged: batches that were late, and that a second node was asked for too.
        reads_ahead: they are taken by a thread of its own, as Keras does it on TensorFlow, to have some ready. What that waits isn't all
            lost to the training, which goes on with those meanwhile.
    """

    batches: int = 0
    nbytes: int = 0
    wait_seconds: float = 0.0
    elapsed_seconds: float = 0.0
    compute_seconds: float = 0.0
    owed: int = 0
    stored: int = 0
    workers: int = 0
    nodes: int = 0
    borrowed_bytes: int = 0
    retries: int = 0
    reconnects: int = 0
    skipped: int = 0
    hedged: int = 0
    reads_ahead: bool = False

    @property
    def wait_share(self) -> float:
        """Share of the time that the training waited for data, 0..1; with `reads_ahead` at most."""
        return min(1.0, self.wait_seconds / self.elapsed_seconds) if self.elapsed_seconds > 0 else 0.0

    def verdict(self) -> str:
        """Is the training held up by its data, by how much, and how many workers would cure it?"""
        if self.batches < 2:
            return "too few batches yet to say whether the training waits for its data"
        share = self.wait_share
        if share < 0.05:
            return f"not input-bound: the training waited for data {share:.0%} of the time"
        busy = self.elapsed_seconds - self.wait_seconds
        # Workers make `compute_seconds` of work; without waiting there would be only `busy` seconds to do it in.
        needed = math.ceil(self.compute_seconds / busy) if busy > 0.01 * self.elapsed_seconds else 0
        head = f"input-bound: the training waited for data {'up to ' if self.reads_ahead else ''}{share:.0%} of the time"
        if needed > self.workers:
            return f"{head}; {'at most' if self.reads_ahead else 'about'} {needed} workers instead of {self.workers} would cure it"
        return f"{head}; more than {self.workers} workers, on this machine or on others, would make it faster"
