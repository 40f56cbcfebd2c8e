"""Which batch is meant by what Keras asks for. PURE: no clock, no randomness, no I/O.

A key is (epoch, index). Epochs count passes over the data as they were *delivered*; Keras' hooks don't count (they fire twice,
in the middle of the data, or not at all, see docs/architecture.md), they only say whether somebody is training:

    outside a pass      seq[i] is batch i of the current epoch, whatever the order. Keras looks at one or two batches like this
                        before it trains; they are handed out again when training begins, not lost, not counted.
    within a pass       as long as the indices come in sequence, seq[i] is batch i. Once one comes out of sequence, Keras is
                        shuffling (``fit(shuffle=True)``), in an order nobody can foresee; then our own permutation of what the
                        epoch still owes is handed out: every batch once, prefetched, and the same on every run. This goes on,
                        hooks or not, to the end of the epoch: tf.data's threads ask ahead, also after ``on_epoch_end``.

An epoch is over when all its batches were delivered, or when an index is asked for again; the batches that an abandoned one owes
are dropped. ``on_epoch_begin`` alone ends nothing: with ``steps_per_epoch`` Keras goes on where it stopped. What it means shows with
the next index:

    nobody trained yet in this epoch        begin it again (they looked), or the next one if they did more than look
    a pass of one or two batches so far     begin it again, if the index doesn't go on in sequence: Keras' fake pass (JAX, torch)
    otherwise                               go on. If an index then is asked for again that was not since ``on_epoch_begin``, this is a
                                            new pass after one that was left in the middle: a new epoch begins, and what was
                                            delivered since counts for it, so that this pass still gets every batch once.

For a stream the same keys are positions: what is delivered at a position is whatever is ready.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TypeAlias

from feeder_client.seen import Seen

Key: TypeAlias = tuple[int, int]

PEEKS = 2
"""Most batches that Keras looks at before it trains: two on TensorFlow; on torch and JAX one, or two where JAX reads ahead."""

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


class _Tally:
    """What was asked for, by Keras' indices, and what was given for it, by ours: they differ where Keras shuffles."""

    __slots__ = ("asked", "given")

    def __init__(self, start: int = 0) -> None:
        self.asked = Seen(start)
        self.given = Seen(start)

    def add(self, asked: int, given: int) -> None:
        self.asked.add(asked)
        self.given.add(given)

    def __len__(self) -> int:
        return len(self.asked)


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
        self._began = False  # on_epoch_begin was called, and nothing asked for since
        self._expect_shuffle = False
        self._steps = 0  # asked for since on_epoch_begin
        self._after_short = False  # the pass before this one was as short as a fake one
        self._forget()

    def _forget(self) -> None:
        """Nothing of the current epoch was asked for."""
        self._all = self._pass = _Tally()  # of this epoch; of those, since on_epoch_begin
        self._trained = False  # a pass began in this epoch: not all was looked at from outside
        self._first_look: int | None = None
        self._shuffled = False
        self._next_k = 0  # place in the permutation

    # ------------------------------------------------------------------------------------------------------ what Keras says

    def begin_pass(self) -> None:
        """``on_epoch_begin``: somebody starts to train, evaluate or predict, or goes on with it."""
        self._in_pass = self._began = True

    def end_pass(self) -> None:
        """``on_epoch_end``: it may come twice, early or never."""
        self._in_pass = False

    def ask(self, index: int) -> Key:
        """The key meant by ``seq[index]`` now.

        Raises:
            IndexError: there is no such batch.
        """
        index = self._checked(index)
        if self._began:
            self._begin(index)
        if self.complete:
            # In sequence a pass ends with its epoch. Shuffled, it may have begun in the middle of what another had left.
            self._next_epoch(keep=self._shuffled and self._unasked(index))
        elif index in self._all.asked:
            if self._looked(index):
                return (self.epoch, index)
            self._next_epoch(keep=self._unasked(index))
        self._began = False
        key = (self.epoch, self._choose(index))
        self._count(index, key[1])
        return key

    def _begin(self, index: int) -> None:
        """The first index since ``on_epoch_begin``."""
        if not self._trained:
            if len(self._all) > PEEKS:
                self._next_epoch()
            elif len(self._all):
                self._again()
        elif self._was_fake(index):
            self._again()
        self._pass = _Tally(self._all.given.run) if len(self._all) else self._all
        self._trained = True
        self._after_short = 0 < self._steps <= PEEKS and self._steps != self.num_batches
        self._steps = 0

    def _was_fake(self, index: int) -> bool:
        """Was all of this epoch so far the pass in which Keras builds the model? Then the real one begins with `index`."""
        if self._pass is not self._all or not 0 < len(self._all) <= PEEKS or self.complete:
            return False
        # Two short passes in a row are no fake ones: steps_per_epoch is 1 or 2.
        return index in self._all.asked or not (self._after_short or self._in_sequence(index))

    def _looked(self, index: int) -> bool:
        """Is this index, asked for before, only looked at again? Then it doesn't count."""
        if len(self._all) <= PEEKS and not self._shuffled:
            return True
        # Keras 2 has no on_epoch_begin: it looks at batch 0, shuffles, and comes to 0 when it comes to it.
        again = not self._trained and index == self._first_look and self._all.asked.run != len(self._all)
        if again:
            self._first_look = None
        return again

    def _unasked(self, index: int) -> bool:
        """Is a pass under way that did not ask for `index`?"""
        return self.num_batches is not None and self._in_pass and len(self._pass) > 0 and index not in self._pass.asked

    def _again(self) -> None:
        """The same epoch from its beginning."""
        self._forget()
        self.version += 1

    def _next_epoch(self, keep: bool = False) -> None:
        """Go on to a new epoch. `keep`: what the pass under way has got counts for it."""
        in_sequence = not self._shuffled and len(self._all) > PEEKS
        if keep or not self.complete or (in_sequence and self._expect_shuffle):
            self.version += 1  # nobody could foresee it
        if in_sequence:
            self._expect_shuffle = False
        # Of the very next epoch batches may be on their way that this pass has got already from the one that ends.
        self.epoch += 2 if keep else 1
        kept = self._pass
        self._forget()
        if keep:
            self._all = self._pass = kept
            self._shuffled = self._expect_shuffle = True
        elif not self._began:
            self._in_pass = False  # a new pass, and nobody said that it begins
        self._trained = self._in_pass

    def _count(self, index: int, given: int) -> None:
        if not self._trained and not len(self._all):
            self._first_look = index
        self._all.add(index, given)
        if self._pass is not self._all:
            self._pass.add(index, given)
        self._steps += self._trained

    def _in_sequence(self, index: int) -> bool:
        return not self._shuffled and index == self._all.given.run == len(self._all)

    def _choose(self, index: int) -> int:
        if self._shuffled:
            return self._permuted_next()
        if not self._in_pass or self.num_batches is None:
            return index
        first = not len(self._all)
        if self._in_sequence(index):
            if first and self._expect_shuffle:
                self.version += 1
            return index
        if not (first and self._expect_shuffle):
            self.version += 1
        self._shuffled = self._expect_shuffle = True
        return self._permuted_next()

    def _permuted_next(self) -> int:
        n = self.num_batches
        assert n is not None  # `_choose` shuffles no endless source
        while True:
            found = permuted(self._next_k, n, self._seed_of(self.epoch))
            self._next_k += 1
            if found not in self._all.given:
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

    def _seed_of(self, epoch: int) -> int:
        return mix(self._seed ^ mix(epoch))

    # ------------------------------------------------------------------------------------------------ what the others ask

    @property
    def complete(self) -> bool:
        """All batches of the current epoch were delivered."""
        return self.num_batches is not None and len(self._all) >= self.num_batches

    @property
    def position(self) -> int:
        """How many batches of the current epoch were delivered."""
        return len(self._all)

    def may_repeat(self, key: Key) -> bool:
        """Might this batch, delivered once, be asked for again? Then it is worth keeping."""
        if key[0] != self.epoch:
            return False
        return len(self._all) <= PEEKS or key[1] not in self._all.given

    def upcoming(self) -> Iterator[Key]:
        """The keys that will be asked for, in that order, over the end of the epoch, without end. Valid for this `version`.

        What was given meanwhile, in whatever order, is left out.
        """
        n, epoch = self.num_batches, self.epoch
        if n == 0:
            return
        while True:
            now = epoch == self.epoch
            shuffle = self._shuffled or (self._expect_shuffle and not (now and len(self._all)))
            first = (self._next_k if shuffle else self._all.given.run) if now else 0
            for k in itertools.count(first) if n is None else range(first, n):
                index = permuted(k, n, self._seed_of(epoch)) if shuffle and n is not None else k
                if epoch < self.epoch:
                    break
                if epoch > self.epoch or index not in self._all.given:
                    yield (epoch, index)
            epoch += 1
