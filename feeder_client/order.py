"""Which batch is meant by what Keras asks for. PURE: no clock, no randomness, no I/O.

A key is (epoch, index). Epochs count passes over the data as they were *delivered*; Keras' hooks don't count (they fire twice,
or not at all, see docs/architecture.md), they only say whether somebody is training:

    outside a pass      seq[i] is batch i of the current epoch, whatever the order. Keras looks at one or two batches like this
                        before it trains; they are handed out again when training begins (`begin_pass`), not lost, not counted.
    within a pass       as long as the indices come in sequence, seq[i] is batch i. Once one comes out of sequence, Keras is
                        shuffling (``fit(shuffle=True)``), in an order nobody can foresee; then our own permutation of what the
                        pass still owes is handed out: every batch once, prefetched, and the same on every run.

An epoch is over when all its batches were delivered, or when an index is asked for again; the batches that an abandoned pass
owes are dropped. For a stream the same keys are positions: what is delivered at a position is whatever is ready.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

Key: TypeAlias = tuple[int, int]

PEEKS = 2
"""Batches that Keras looks at before a pass: two on TensorFlow, one on JAX and torch."""

_MASK = (1 << 64) - 1


def mix(value: int) -> int:
    """Scramble 64 bits (the finalizer of SplitMix64: Steele, Lea, Flood 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def permuted(k: int, n: int, seed: int) -> int:
    """Element `k` of a permutation of ``range(n)``, without making the others: `n` may be 2**63-1.

    A Feistel network over the next power of four, walked until it lands below `n` (Black and Rogaway 2002).
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = k >> half, k & mask
        for turn in range(6):
            left, right = right, left ^ (mix(right ^ mix(seed + turn)) & mask)
        k = left << half | right
        if k < n:
            return k


class Seen:
    """A set of whole numbers that mostly come in sequence: what is below `run` is in it, the rest is kept one by one."""

    __slots__ = ("_rest", "run")

    def __init__(self) -> None:
        self.run = 0
        self._rest: set[int] = set()

    def add(self, i: int) -> None:
        """Put `i` in."""
        if i == self.run:
            self.run += 1
            while self.run in self._rest:
                self._rest.remove(self.run)
                self.run += 1
        elif i > self.run:
            self._rest.add(i)

    def __contains__(self, i: object) -> bool:
        return (type(i) is int and 0 <= i < self.run) or i in self._rest

    def __len__(self) -> int:
        return self.run + len(self._rest)


class Order:
    """The position in the data.

    Args:
        num_batches: batches of one epoch; None: endless, indices go on counting.
        seed: of the permutations.

    `version` goes up whenever `upcoming` has to be asked for anew.
    """

    def __init__(self, num_batches: int | None, seed: int = 0) -> None:
        self.num_batches = num_batches
        self.epoch = 0
        self.version = 0
        self._seed = seed
        self._in_pass = False
        self._began_outside = True  # the current epoch's first batch was asked for outside a pass
        self._shuffled = False
        self._expect_shuffle = False
        self._next_k = 0  # place in the permutation
        self._asked = Seen()  # by Keras' index
        self._given = Seen()  # by ours

    # ------------------------------------------------------------------------------------------------------ what Keras says

    def begin_pass(self) -> None:
        """``on_epoch_begin``: somebody starts to train, evaluate or predict."""
        looked = len(self._asked)
        if looked and self.complete and not (self._began_outside and looked <= PEEKS):
            self._next_epoch()
        elif looked > PEEKS:
            self._next_epoch()  # the last pass was left in the middle
            self.version += 1
        elif looked:
            self._forget()  # they only looked: begin again, with the same epoch
            self.version += 1
        self._in_pass = True
        self._began_outside = False

    def end_pass(self) -> None:
        """``on_epoch_end``: it may come twice, early or never."""
        self._in_pass = False

    def ask(self, index: int) -> Key:
        """The key meant by ``seq[index]`` now.

        Raises:
            IndexError: there is no such batch.
        """
        index = self._checked(index)
        if self.complete:
            self._next_epoch()
            self._began_outside = not self._in_pass
        elif index in self._asked:
            if len(self._asked) <= PEEKS and not self._shuffled:
                return (self.epoch, index)  # looked at again
            self._next_epoch()  # a new pass after one that was left in the middle, and nobody said that it begins
            self.version += 1
            self._in_pass, self._began_outside = False, True
        key = (self.epoch, self._choose(index))
        self._asked.add(index)
        self._given.add(key[1])
        return key

    def _choose(self, index: int) -> int:
        if not self._in_pass:
            return index
        if not self._shuffled:
            if index == self._given.run and len(self._given) == index:
                return index
            self._shuffled = True
            if not self._expect_shuffle or len(self._given):
                self.version += 1
            self._expect_shuffle = True
        return self._permuted_next()

    def _permuted_next(self) -> int:
        assert self.num_batches is not None  # an endless source is asked in sequence, `_checked` sees to it
        while True:
            found = permuted(self._next_k, self.num_batches, self._seed_of(self.epoch))
            self._next_k += 1
            if found not in self._given:
                return found

    def _checked(self, index: int) -> int:
        n = self.num_batches
        if n is None:
            if index < 0:
                raise IndexError(f"batch {index} of an endless source")
            return index
        if not -n <= index < n:
            raise IndexError(f"batch {index} of {n}")
        return index % n

    def _next_epoch(self) -> None:
        if not self._shuffled and len(self._asked) > PEEKS and self._expect_shuffle:
            self._expect_shuffle = False  # the pass that ends came in sequence after all
            self.version += 1
        self.epoch += 1
        self._forget()

    def _forget(self) -> None:
        self._asked, self._given = Seen(), Seen()
        self._next_k = 0
        self._shuffled = False

    def _seed_of(self, epoch: int) -> int:
        return mix(self._seed ^ mix(epoch))

    # ------------------------------------------------------------------------------------------------ what the others ask

    @property
    def complete(self) -> bool:
        """All batches of the current epoch were delivered."""
        return self.num_batches is not None and len(self._given) >= self.num_batches

    @property
    def position(self) -> int:
        """How many batches of the current epoch were delivered."""
        return len(self._given)

    def may_repeat(self, key: Key) -> bool:
        """Might this batch, delivered once, be asked for again? Then it is worth keeping."""
        if key[0] != self.epoch:
            return False
        return len(self._asked) <= PEEKS or key[1] not in self._given

    def upcoming(self) -> Iterator[Key]:
        """The keys that will be asked for, in that order, over the end of the epoch, without end. Valid for this `version`."""
        epoch, n = self.epoch, self.num_batches
        if n is None:
            index = self._given.run
            while True:
                yield (epoch, index)
                index += 1
        if n == 0:
            return
        given, first = self._given, self._next_k
        shuffle = self._shuffled or (self._expect_shuffle and len(given) == 0)
        while True:
            for k in range(first if shuffle else 0, n):
                index = permuted(k, n, self._seed_of(epoch)) if shuffle else k
                if index not in given:
                    yield (epoch, index)
            epoch, given, first = epoch + 1, Seen(), 0
            shuffle = self._shuffled or self._expect_shuffle
