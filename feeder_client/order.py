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

Where Keras lets us know (feeder_client/keras_base.py), none of this has to be guessed: whether it shuffles, whether it only looks, and
whether another `fit` begins.

For a stream the same keys are positions: what is delivered at a position is whatever is ready.

A position can be taken up again (`load`). The epoch then counts only what it still owes: index 0 is the first batch that was not given
before, and `length` is how many there are, until that epoch is over. Keras 2 can't do with a shorter pass: there (`rolls`) the pass goes on
into the next epoch, and so does every later one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TypeAlias

from feeder_client.permutation import epoch_seed, permuted
from feeder_client.place import Mark, Place
from feeder_client.seen import Seen, Tally

Key: TypeAlias = tuple[int, int]

PEEKS = 2
"""Most batches that Keras looks at before it trains: two on TensorFlow; on torch and JAX one, or two where JAX reads ahead."""


class Order:
    """The position in the data.

    Args:
        num_batches: batches of one epoch; None: endless, indices go on counting.
        seed: of the permutations.
        rolls: see the module.

    `version` goes up whenever `upcoming` has to be asked for anew.
    """

    def __init__(self, num_batches: int | None, seed: int = 0, rolls: bool = False) -> None:
        self.num_batches = num_batches
        self._rolls = rolls
        self._rolled: int | None = None  # asked for in this pass of Keras', while it isn't one of ours
        self._parts = False  # it does so although Keras announces passes, which go over several of its epochs
        self._knows = False  # see `known`
        self._loaded = 0  # the epoch that was taken up again
        self.epoch = 0
        self.version = 0
        self._seed = seed
        self._in_pass = False
        self._began = False  # on_epoch_begin was called, and nothing asked for since
        self._expect_shuffle = False
        self._steps = 0  # asked for since on_epoch_begin
        self._after_short = False  # the pass before this one was as short as a fake one
        self._told: bool | None = None  # Keras shuffles in this pass; None: it doesn't say
        self._look: bool | None = None  # it only looks
        self._anew = False  # another fit has begun
        self._looks = 0
        self._base: Seen | None = None  # what was given of this epoch before its position was taken up
        self._resumed = (False, 0)  # then: whether it was shuffled, and the place in the permutation
        self.cut = False  # the epoch before this one was left in the middle, or this one begun anew
        self._forget()

    def _forget(self) -> None:
        """Nothing of the current epoch was asked for."""
        self._all = self._pass = Tally(0, self._base or 0)  # of this epoch; of those, since on_epoch_begin
        self._opening: Seen | None = self._all.given.copy()  # what was given when it began, for the next mark
        self._trained = False  # a pass began in this epoch: not all was looked at from outside
        self._first_look: int | None = None
        self._shuffled = False
        self._next_k = 0  # place in the permutation

    # ------------------------------------------------------------------------------------------------------ what Keras says

    def begin_pass(self, shuffle: bool | None = None, look: bool | None = None, anew: bool = False, parts: bool = False) -> None:
        """``on_epoch_begin``: somebody starts to train, evaluate or predict, or goes on with it.

        Args:
            shuffle: whether the indices will come out of sequence; None: not known, as the next.
            look: whether nobody trains, and batches are only looked at.
            anew: whether this is known not to go on with what the pass before it left.
            parts: whether the whole pass is read in several of these, as with ``steps_per_epoch``.
        """
        if parts and not look and not self._trained and self._base is not None and self.num_batches is not None:
            self._again()  # what was looked at
            self._parts, self._rolled = True, 0  # Keras has counted on a whole pass before it asks for the length
        self._in_pass, self._began = True, not look
        self._told, self._look, self._looks = shuffle, look, 0
        self._anew = self._anew or (anew and not look)

    def end_pass(self) -> None:
        """``on_epoch_end``: it may come twice, early or never."""
        self._in_pass = False

    def known(self) -> None:
        """Keras 2 knows how much of its pass is left (BackupAndRestore), and what it asks for beyond that is read ahead for nothing."""
        self._knows = True

    def ask(self, index: int) -> Key:
        """The key meant by ``seq[index]`` now.

        Raises:
            IndexError: there is no such batch.
        """
        if self._look and self._in_pass:
            return self._glance(self._checked(index, self.num_batches))
        if self._rolled is not None and (key := self._roll()) is not None:
            return key
        peeks = not self._in_pass and not self._trained and 0 <= index < PEEKS
        index = self._checked(index, self.num_batches if peeks else self.length)
        if peeks and not self._shuffled and self.length is not None and index >= self.length:
            return (self.epoch, self._at(0))  # Keras looks at two batches, and has yet to learn that one is left
        if self._shuffled and not self._trained and not self._in_pass:  # taken up again, and looked at from outside
            return (self.epoch, self._foreseen(index))
        if first := self._began:
            self._begin(index)
        if self.complete:
            # In sequence a pass ends with its epoch. Shuffled, it may have begun in the middle of what another had left.
            self._next_epoch(keep=self._shuffled and self._unasked(index))
        elif index in self._all.asked:
            if not first and self._looked(index):  # with its first batch a pass begins, whatever was looked at before
                return (self.epoch, self._at(index))
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
        elif self._anew:
            if len(self._all) and not self.complete:
                self._next_epoch()
        elif self._look is None and self._was_fake(index):
            self._again()
        if self._told is False and self._shuffled and not self.complete:
            self._next_epoch()  # what is evaluated comes in sequence
        self._anew = False
        self._pass = Tally(self._all.asked.run, self._all.given.run) if len(self._all) else self._all
        self._trained = True
        self._after_short = 0 < self._steps <= PEEKS and self._steps != self.num_batches
        self._steps = 0

    def _glance(self, index: int) -> Key:
        """Keras builds a model from what it gets now: the batch with which the training will begin."""
        gone = self.complete or (self._trained and len(self._all) > 0)
        if self._told and self.num_batches is not None:
            if not self._expect_shuffle:
                self._expect_shuffle = True
                self.version += 1
            self._looks += 1
            return self.epoch + gone, self._foreseen(self._looks - 1, gone)
        if gone or self.length is None:
            return (self.epoch + gone, index)
        return (self.epoch, self._at(min(index, self.length - 1)))

    def _foreseen(self, k: int, gone: bool = False) -> int:
        """The batch that comes `k` places on, or of the next epoch where this one is `gone`, if the indices are out of sequence."""
        n = self.num_batches
        assert n is not None
        given, first = (Seen(), 0) if gone else (self._all.given, self._next_k)
        seed = epoch_seed(self._seed, self.epoch + gone)
        coming = (i for i in (permuted(place, n, seed) for place in range(first, n)) if i not in given)
        return next(itertools.islice(coming, min(k, n - len(given) - 1), None))

    def _roll(self) -> Key | None:
        """The next batch, whatever the index; None: the pass before this one was left in the middle, and so is this way of counting."""
        n = self.num_batches
        assert n is not None
        assert self._rolled is not None
        if not self._in_pass and not self._parts:
            if self.complete:
                return self.epoch + 1, self._foreseen(0, gone=True) if self._expect_shuffle else 0
            return self.epoch, self._foreseen(0) if self._shuffled else self._all.given.missing(0)
        if self._began and (self._knows or self._rolled % n) and self._rolled and (self._anew or not self._parts):
            ahead = self._knows and self.epoch > self._loaded and not self.complete
            self._rolled = None
            self._again() if ahead else self._next_epoch()
            return None
        if self.complete:
            self._began = True  # the pass goes on
            self._next_epoch()
            self._shuffled = self._expect_shuffle
        self._began = self._anew = False
        self._trained = True
        given = self._permuted_next() if self._shuffled else self._all.given.missing(0)
        self._all.add(self._all.asked.run, given)
        self._rolled += 1
        return self.epoch, given

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
        self._shuffled, self._next_k = self._resumed if self._base is not None else (False, 0)
        self.cut = True
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
        self.cut = keep or not self.complete
        self._base, self._resumed = None, (False, 0)
        self._forget()
        if keep:
            self._all = self._pass = kept
            self._opening = kept.given.copy()
            self._shuffled = self._expect_shuffle = True
        elif not self._began:
            self._in_pass = False  # a new pass, and nobody said that it begins
            self._told = None
        self._trained = self._in_pass

    def _count(self, index: int, given: int) -> None:
        if not self._trained and not len(self._all):
            self._first_look = index
        self._all.add(index, given)
        if self._pass is not self._all:
            self._pass.add(index, given)
        self._steps += self._trained

    def _in_sequence(self, index: int) -> bool:
        return not self._shuffled and index == self._all.asked.run == len(self._all)

    def _at(self, index: int) -> int:
        """Our index for Keras', as long as they come in sequence."""
        return index if self._base is None else self._base.missing(index)

    def _choose(self, index: int) -> int:
        if self._shuffled:
            return self._permuted_next()
        if not self._in_pass or self.num_batches is None:
            return self._at(index)
        first = not len(self._all)
        if self._told is False or (self._told is None and self._in_sequence(index)):
            if first and self._expect_shuffle:
                self._expect_shuffle = self._told is None
                self.version += 1
            return self._at(index)
        if not (first and self._expect_shuffle):
            self.version += 1
        self._shuffled = self._expect_shuffle = True
        return self._permuted_next()

    def _permuted_next(self) -> int:
        n = self.num_batches
        assert n is not None  # `_choose` shuffles no endless source
        while True:
            found = permuted(self._next_k, n, epoch_seed(self._seed, self.epoch))
            self._next_k += 1
            if found not in self._all.given:
                return found

    def _checked(self, index: int, n: int | None) -> int:
        if n is None:
            if index < 0:
                raise IndexError(f"batch {index} of an endless source")
            return index
        if not -n <= index < n:
            resumed = "" if self._base is None else f" that epoch {self.epoch} still owes: it was taken up again after {len(self._base)}"
            raise IndexError(f"batch {index} of {n}{resumed}")
        return index % n

    # ------------------------------------------------------------------------------------------------ what the others ask

    @property
    def complete(self) -> bool:
        """All batches of the current epoch were delivered."""
        return self.num_batches is not None and len(self._all.given) >= self.num_batches

    @property
    def length(self) -> int | None:
        """How many batches this epoch gives: fewer than `num_batches` where its position was taken up again."""
        begins = self._began or (self._look and self._in_pass)
        if self.num_batches is None or self._base is None or self._rolled is not None or (begins and self._trained and self.complete):
            return self.num_batches
        return self.num_batches - len(self._base)

    @property
    def position(self) -> int:
        """How many batches of the current epoch were delivered."""
        return len(self._all.given)

    @property
    def in_pass(self) -> bool:
        """Has somebody begun a pass, not only to look, and not ended it?"""
        return self._in_pass and not self._look

    @property
    def training(self) -> bool:
        """Is what is asked for now meant to be used, and not only looked at?"""
        return self._trained and not self._look

    def mark(self, key: Key) -> Mark:
        """What the batch just asked for changes about the position, once it has been used."""
        opening, self._opening = self._opening, None
        cut, self.cut = self.cut, False
        return Mark(*key, self._shuffled, self._next_k, self._expect_shuffle, opening, cut)

    def place(self) -> Place:
        """The position, as far as batches were delivered; what was only looked at doesn't count."""
        used = self._trained or len(self._all) > PEEKS
        given = self._all.given.copy() if used else (self._base.copy() if self._base else Seen())
        shuffled, next_k = (self._shuffled, self._next_k) if used else self._resumed
        return Place(self.epoch, given, shuffled, next_k, self._expect_shuffle)

    def load(self, place: Place) -> None:
        """Take up a position again."""
        n = self.num_batches
        if n is not None and len(place.given) >= n > 0:
            place = Place(place.epoch + 1, Seen(), False, 0, place.expect_shuffle)
        self.epoch, self._expect_shuffle = self._loaded, _ = place.epoch, place.expect_shuffle
        self._base = place.given.copy() if len(place.given) else None
        self._resumed = (place.shuffled, place.next_k)
        self._in_pass = self._began = self._anew = False
        self._told = self._look = None
        self._steps = 0
        self._rolled = 0 if self._rolls and self._base is not None and n is not None else None
        self._parts = self._knows = False
        self._forget()
        self._shuffled, self._next_k = self._resumed
        self.version += 1

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
            shuffle = self._shuffled or (self._expect_shuffle and not (now and len(self._all.given)))
            first = (self._next_k if shuffle else self._all.given.run) if now else 0
            for k in itertools.count(first) if n is None else range(first, n):
                index = permuted(k, n, epoch_seed(self._seed, epoch)) if shuffle and n is not None else k
                if epoch < self.epoch:
                    break
                if epoch > self.epoch or index not in self._all.given:
                    yield (epoch, index)
            epoch += 1
