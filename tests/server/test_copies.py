from __future__ import annotations

import os
import pathlib
import random
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeder_server.copies import Copies, Maker, SourceInfo, StreamEnded
from feeder_server.source import IndexedSource, StreamSource, build
from feeder_server.target import parse_target
from feeder_wire.errors import SourceError

A, B = b"a" * 16, b"b" * 16


class Shuffled:
    """What most Sequences look like: global generators, drawn from in __init__, on_epoch_end and __getitem__."""

    def __init__(self, n: int = 5) -> None:
        self.order = list(range(n))
        random.shuffle(self.order)
        self.split = np.random.rand()
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.order)

    def on_epoch_end(self) -> None:
        self.epoch += 1
        random.shuffle(self.order)
        np.random.shuffle(self.order)

    def __getitem__(self, index: int) -> tuple[object, ...]:
        return self.order[index], self.split, self.epoch, random.random(), float(np.random.rand())


class Plain:
    """Without state, and with augmentation."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[int, float]:
        return index, random.random()


class Counted:
    """Counts how often it builds."""

    def __init__(self, factory: Callable[[], object]) -> None:
        self.factory = factory
        self.built = 0

    def __call__(self) -> IndexedSource | StreamSource:
        self.built += 1
        return build(self.factory, {}, shard=(0, 1))


def copies_of(factory: Callable[..., object], *, seed: int = 0, slot: int = 0, slots: int = 1, **more: Any) -> Copies:
    return Copies(lambda: build(factory, {}, shard=(slot, slots)), seed=seed, slot=slot, slots=slots, **more)


def drain(copies: Copies, session: bytes, run: int) -> list[Any]:
    found: list[Any] = []

    def take_all() -> None:
        while True:
            found.append(copies.next(session, run))

    with pytest.raises(StreamEnded) as end:
        take_all()
    assert end.value.delivered == len(found)
    return found


# -- indexed


def test_every_index_once_over_any_number_of_workers() -> None:
    for slots in (1, 3):
        workers = [copies_of(Shuffled, slot=slot, slots=slots) for slot in range(slots)]
        for epoch in range(4):
            seen = [workers[index % slots].item(A, epoch, index) for index in range(5)]
            assert sorted(item[0] for item in seen) == [0, 1, 2, 3, 4]  # type: ignore[index]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([A, B]), st.integers(0, 3), st.integers(0, 4)), max_size=25))
def test_an_item_does_not_depend_on_what_was_made_before(requests: list[tuple[int, bytes, int, int]]) -> None:
    workers = [copies_of(Shuffled, slot=slot, slots=3) for slot in range(3)]
    for slot, session, epoch, index in requests:
        expected = copies_of(Shuffled, slot=0, slots=1).item(A, epoch, index)
        random.random()  # whoever else draws
        assert workers[slot].item(session, epoch, index) == expected


def test_seeds_and_epochs_and_items_differ() -> None:
    draws = {copies_of(Shuffled, seed=seed).item(A, epoch, index)[3] for seed in (0, 1) for epoch in (0, 1) for index in (0, 1)}  # type: ignore[index]
    assert len(draws) == 8


def test_epochs_are_replayed_in_turn() -> None:
    made: list[list[int]] = []

    class Numbered:
        def __init__(self) -> None:
            self.epochs: list[int] = []
            made.append(self.epochs)

        def __len__(self) -> int:
            return 2

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

        def __getitem__(self, index: int) -> list[int]:
            return list(self.epochs)

    copies = copies_of(Numbered)
    assert copies.item(A, 3, 0) == [0, 1, 2, 3]
    assert copies.item(A, 3, 1) == [0, 1, 2, 3]
    assert copies.item(A, 4, 0) == [0, 1, 2, 3, 4]
    assert len(made) == 1
    assert copies.item(A, 2, 0) == [0, 1, 2]  # made again after all have moved on
    assert copies.item(A, 3, 1) == [0, 1, 2, 3]  # by the same older copy
    assert copies.item(A, 4, 1) == [0, 1, 2, 3, 4]
    assert len(made) == 2
    assert copies.item(A, 0, 0) == [0]
    assert len(made) == 3
    assert copies.item(A, 5, 0) == [0, 1, 2, 3, 4, 5]
    assert copies.item(A, 1, 0) == [0, 1]
    assert len(made) == 3
    assert repr(copies) == f"<Copies slot 0 of 1, cold, {{'{A.hex()}': [1, 5]}}>"


@settings(deadline=None)  # other programs may have the cores
@given(st.lists(st.integers(0, 6), max_size=30))
def test_at_most_two_copies_per_session(epochs: list[int]) -> None:
    copies = copies_of(Shuffled)
    for epoch in epochs:
        assert copies.item(A, epoch, 0)[2] == epoch  # type: ignore[index]
        assert len(copies._copies[A]) <= 2
        assert max(copy.epoch for copy in copies._copies[A]) >= epoch


def test_sessions_have_their_own_epochs() -> None:
    make = Counted(Shuffled)
    copies = Copies(make, seed=0, slot=0, slots=1)
    copies.warm()
    copies.warm()
    assert make.built == 1
    first = copies.item(A, 0, 0)
    assert make.built == 1  # the first session took the one that was ready
    copies.item(A, 3, 0)
    assert copies.item(B, 0, 0) == first
    assert make.built == 2
    copies.drop(A)
    copies.drop(A)
    copies.warm()
    assert make.built == 3
    assert copies.item(A, 0, 0) == first
    assert make.built == 3


def test_without_state_one_copy_is_enough() -> None:
    make = Counted(Plain)
    copies = Copies(make, seed=0, slot=0, slots=1)
    assert copies.info() == SourceInfo("indexed", 3, False, False)
    seen = {copies.item(session, epoch, 1) for session in (A, B) for epoch in (2, 0)}
    copies.drop(A)
    copies.warm()
    copies.item(A, 0, 0)
    assert len(seen) == 2  # one per epoch: augmentation goes on
    assert make.built == 1


def test_info_stays_when_the_first_copy_is_gone() -> None:
    make = Counted(Shuffled)
    copies = Copies(make, seed=0, slot=0, slots=1)
    copies.item(A, 0, 0)
    assert copies.info() == SourceInfo("indexed", 5, True, False)
    assert make.built == 1


def test_a_length_that_changes() -> None:
    class Shrinking(Plain):
        n = 4

        def __len__(self) -> int:
            return self.n

        def on_epoch_end(self) -> None:
            self.n -= 1

    copies = copies_of(Shrinking)
    assert [copies.num_batches_at(A, epoch) for epoch in (0, 1, 3, 2)] == [4, 3, 1, 2]
    assert copies.info().num_batches == 4


class Noisy(Plain):
    """Holds one generator, and makes another one with its first item."""

    late: Any = None

    def __init__(self) -> None:
        self.rng = np.random.default_rng()

    def __getitem__(self, index: int) -> tuple[int, float]:
        self.late = self.late or random.Random()
        return index, self.rng.random()


class Told(Plain):
    def reseed(self, seed: int) -> None:
        self.seed = seed


def noisy_stream() -> Iterator[float]:
    rng = np.random.default_rng()
    while True:
        yield rng.random()


def test_the_generators_that_are_set_have_names() -> None:
    made = Copies(lambda: build(Noisy, {}, shard=None), seed=0, slot=0, slots=1)
    assert made.generators(A) == []
    made.warm()
    assert made.generators(A) == ["source.rng"]
    made.item(A, 0, 0)
    assert made.generators(A) == ["source.rng", "source.late"]
    told = Copies(lambda: build(Told, {}, shard=None), seed=0, slot=0, slots=1)
    told.warm()
    assert told.generators(A) == ["source.reseed(seed)"]
    stream = Copies(lambda: build(noisy_stream, {}, shard=None), seed=0, slot=0, slots=1)
    stream.next(A, 0)
    assert stream.generators(A) == ["run.rng"]
    assert stream.generators(B) == []


def test_errors_of_items_come_out_as_they_are() -> None:
    copies = copies_of(Shuffled)
    with pytest.raises(IndexError) as caught:
        copies.item(A, 0, 99)
    assert not isinstance(caught.value, SourceError)
    assert copies.item(A, 0, 0) == copies_of(Shuffled).item(A, 0, 0)


def test_a_copy_that_failed_on_its_way_is_not_used() -> None:
    class Fails(Plain):
        tries = 0

        def __init__(self) -> None:
            self.epochs = 0

        def on_epoch_end(self) -> None:
            self.epochs += 1
            if self.epochs == 2 and Fails.tries < 2:
                Fails.tries += 1
                raise OSError("disk")

        def __getitem__(self, index: int) -> Any:
            return self.epochs

    copies = copies_of(Fails)
    assert copies.item(A, 1, 0) == 1
    for _ in range(2):
        with pytest.raises(OSError, match="disk"):
            copies.item(A, 3, 0)
    assert copies.item(A, 3, 0) == 3


def test_an_epoch_that_no_training_comes_to() -> None:
    """All before it would be replayed, for years; what is asked for next is there all the same."""
    copies = Copies(lambda: build(Shuffled, {}, shard=None), seed=1, slot=0, slots=1)
    expected = copies.item(A, 1, 0)
    with pytest.raises(ValueError, match="epoch 4611686018427387904 is more than 1000000 epochs after epoch 1"):
        copies.item(A, 2**62, 0)
    assert copies.item(A, 1, 0) == expected


def test_one_that_is_given_up_on_its_way_is_not_used() -> None:
    """By `on_step`, which raises: the session has ended meanwhile."""
    steps = 0

    def on_step(timed: bool) -> None:
        nonlocal steps
        steps += 1
        if steps == 10:
            raise KeyboardInterrupt

    copies = Copies(lambda: build(Shuffled, {}, shard=None), seed=1, slot=0, slots=1, on_step=on_step)
    with pytest.raises(KeyboardInterrupt):
        copies.item(A, 1000, 0)
    undisturbed = Copies(lambda: build(Shuffled, {}, shard=None), seed=1, slot=0, slots=1)
    assert copies.item(A, 3, 2) == undisturbed.item(A, 3, 2)


def test_a_source_that_can_not_be_built() -> None:
    class Fails:
        def __init__(self) -> None:
            raise ValueError("no files")

    copies = copies_of(Fails)
    for call in (copies.warm, copies.info, lambda: copies.item(A, 0, 0), lambda: copies.next(A, 0)):
        with pytest.raises(SourceError, match="no files"):
            call()


def test_each_kind_has_its_own_question() -> None:
    with pytest.raises(TypeError, match="by number"):
        copies_of(Plain).next(A, 0)
    with pytest.raises(TypeError, match="no items"):
        copies_of(noisy).item(A, 0, 0)


# -- streams


def noisy(n: int = 4) -> Iterator[tuple[int, float, float]]:
    for i in range(n):
        yield i, random.random(), float(np.random.rand())


def test_a_stream_runs_again() -> None:
    copies = copies_of(noisy)
    assert copies.info() == SourceInfo("stream", None, False, False)
    assert copies.num_batches_at(A, 0) is None
    first, second = drain(copies, A, 0), drain(copies, A, 1)
    assert [i for i, *_ in first] == [i for i, *_ in second] == [0, 1, 2, 3]
    assert len({item[1] for item in first + second}) == 8
    for _ in range(2):
        with pytest.raises(StreamEnded) as end:
            copies.next(A, 1)
        assert end.value.delivered == 4
    with pytest.raises(ValueError, match="run 0 was asked for"):
        copies.next(A, 0)


def test_a_streams_numbers_belong_to_seed_slot_run_and_count() -> None:
    expected = drain(copies_of(noisy, slot=1, slots=2), A, 2)
    copies = copies_of(noisy, slot=1, slots=2)
    copies.next(A, 0)  # given up
    copies.next(B, 0)
    found = []
    for _ in range(4):
        found.append(copies.next(A, 2))
        random.seed(1)
        np.random.seed(1)
    assert found == expected
    others = [
        drain(copies_of(noisy, slot=0, slots=2), A, 2),
        drain(copies_of(noisy, slot=1, slots=2), A, 1),
        drain(copies_of(noisy, slot=1, slots=2, seed=1), A, 2),
        drain(copies_of(noisy, slot=1, slots=2, incarnation=1), A, 2),
    ]
    assert not {item[1] for item in expected} & {item[1] for other in others for item in other}


def test_sessions_of_a_stream() -> None:
    copies = copies_of(noisy)
    assert copies.next(A, 0) == copies.next(B, 0)
    assert copies.next(A, 0)[0] == 1  # type: ignore[index]
    copies.drop(A)
    assert copies.next(A, 0)[0] == 0  # type: ignore[index]
    assert copies.next(B, 0)[0] == 1  # type: ignore[index]


def sharded(shard_index: int, num_shards: int) -> Iterator[tuple[int, float]]:
    files = list(range(20))
    random.shuffle(files)
    np.random.shuffle(files)
    for name in files[shard_index::num_shards]:
        yield name, random.random()


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_shards_of_a_shuffled_list_make_one_pass(slots: int) -> None:
    workers = [copies_of(sharded, slot=slot, slots=slots) for slot in range(slots)]
    assert workers[0].info().sharded
    orders = []
    for run in range(3):
        parts = [drain(worker, A, run) for worker in workers]
        orders.append([name for part in parts for name, _ in part])
        assert sorted(orders[-1]) == list(range(20))
        later = [draw for part in parts for _, draw in part[1:]]
        assert len(set(later)) == len(later)  # augmentation differs between the shards
    assert orders[0] != orders[1] != orders[2]
    again = copies_of(sharded, slot=slots - 1, slots=slots, incarnation=5)
    assert drain(again, A, 2) == drain(copies_of(sharded, slot=slots - 1, slots=slots), A, 2)


def test_the_code_may_give_one_array_again_and_again() -> None:
    def reused() -> Iterator[Any]:
        array = np.zeros(1)
        for i in range(3):
            array[0] = i
            yield array

    copies = copies_of(reused)
    assert [float(copies.next(A, 0)[0]) for _ in range(3)] == [0, 1, 2]  # type: ignore[index]


def test_a_generator_that_failed_does_not_look_like_one_that_ended() -> None:
    def breaks() -> Iterator[int]:
        yield 1
        raise ValueError("bad file")

    copies = copies_of(breaks)
    for run in (0, 1):
        assert copies.next(A, run) == 1
        with pytest.raises(ValueError, match="bad file") as first:
            copies.next(A, run)
        assert not isinstance(first.value, SourceError)
        for _ in range(3):
            with pytest.raises(SourceError, match=r"bad file \(after 1 batches; a generator can't go on") as again:
                copies.next(A, run)
        assert "in breaks" in str(again.value)


def test_a_generator_that_leaves() -> None:
    def leaves() -> Iterator[int]:
        yield 1
        sys.exit(3)

    copies = copies_of(leaves)
    copies.next(A, 0)
    with pytest.raises(SystemExit):
        copies.next(A, 0)
    with pytest.raises(SourceError, match="SystemExit"):
        copies.next(A, 0)


def test_an_iterator_that_can_go_on_does() -> None:
    def load(i: int) -> int:
        if i == 1:
            raise OSError("file 1")
        return i

    copies = copies_of(lambda: map(load, range(3)))
    assert copies.next(A, 0) == 0
    with pytest.raises(OSError, match="file 1"):
        copies.next(A, 0)
    assert copies.next(A, 0) == 2
    with pytest.raises(StreamEnded) as end:
        copies.next(A, 0)
    assert end.value.delivered == 2


def test_a_stream_that_can_not_start_tries_again() -> None:
    tries = []

    class Flaky:
        def __iter__(self) -> Iterator[int]:
            tries.append(1)
            if len(tries) == 1:
                raise OSError("not yet")
            return iter([5])

    copies = copies_of(Flaky)
    with pytest.raises(OSError, match="not yet"):
        copies.next(A, 0)
    assert drain(copies, A, 0) == [5]


def test_an_iterator_of_its_own_is_built_for_every_run() -> None:
    class Own:
        def __init__(self) -> None:
            self.split = random.random()
            self.left = [1, 2]

        def __iter__(self) -> Own:
            return self

        def __next__(self) -> float:
            if not self.left:
                raise StopIteration
            return self.left.pop() + self.split

    make = Counted(Own)
    copies = Copies(make, seed=0, slot=0, slots=1)
    assert drain(copies, A, 0) == drain(copies, B, 0) == drain(copies, A, 1)
    assert make.built == 3


def test_what_is_iterated_is_built_per_session() -> None:
    class Cumulative:
        def __init__(self) -> None:
            self.files = list(range(20))

        def __iter__(self) -> Iterator[int]:
            random.shuffle(self.files)
            return iter(list(self.files))

    make = Counted(Cumulative)
    copies = Copies(make, seed=0, slot=0, slots=1)
    first = [drain(copies, A, 0), drain(copies, A, 1)]
    assert [drain(copies, B, 0), drain(copies, B, 1)] == first
    assert make.built == 2


def test_a_stream_that_is_given_up_is_closed() -> None:
    closed = []

    def watched() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(1)

    copies = copies_of(watched)
    copies.next(A, 0)
    copies.next(A, 1)
    assert len(closed) == 1
    copies.drop(A)
    assert len(closed) == 2


def test_a_stream_that_can_not_be_closed(caplog: pytest.LogCaptureFixture) -> None:
    def stubborn() -> Iterator[int]:
        while True:
            try:
                yield 1
            except GeneratorExit:
                yield 2
                return

    copies = copies_of(stubborn)
    copies.next(A, 0)
    copies.drop(A)
    assert "closing a stream" in caplog.text


# -- from the command line's words


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


AUGMENT = """
import random
import numpy as np

FILES = list(range(20))
random.shuffle(FILES)

class Part:
    def __init__(self, validation=False):
        names = list(FILES)
        np.random.shuffle(names)
        self.names = names[:5] if validation else names[5:]
    def __len__(self):
        return len(self.names)
    def on_epoch_end(self):
        random.shuffle(self.names)
    def __getitem__(self, i):
        return self.names[i], random.random(), np.random.rand()

train = Part()
val = Part(validation=True)
def make(): return train
once = iter(FILES)
"""


def made(text: str, **args: object) -> Copies:
    target = parse_target(text)
    target.args.update(args)
    return Copies(Maker(target, seed=0, shard=(0, 1)), seed=0, slot=0, slots=1)


def test_random_splits_agree_between_train_and_val(folder: pathlib.Path) -> None:
    (folder / "augment.py").write_text(AUGMENT)
    train, val = made("augment.py:Part"), made("augment.py:Part", validation=True)
    names = [copies.item(A, epoch, i)[0] for copies, n in ((train, 15), (val, 5)) for epoch in (3,) for i in range(n)]  # type: ignore[index]
    assert sorted(names) == list(range(20))


def test_an_object_of_the_module_is_made_again_by_its_module(folder: pathlib.Path) -> None:
    (folder / "augment.py").write_text(AUGMENT)
    copies = made("augment.py:train")
    first = [copies.item(A, 0, i) for i in range(15)]
    copies.item(A, 2, 0)
    assert [copies.item(B, 0, i) for i in range(15)] == first
    assert [copies.item(A, 0, i) for i in range(15)] == first
    copies.drop(A)
    copies.warm()
    assert [copies.item(A, 0, i) for i in range(15)] == first
    stream = made("augment.py:once")
    assert drain(stream, A, 0) == drain(stream, B, 0) == drain(stream, A, 1)


def test_an_object_that_can_not_be_made_again(folder: pathlib.Path) -> None:
    (folder / "augment.py").write_text(AUGMENT)
    (folder / "other.py").write_text("from augment import train")
    copies = made("other.py:train")
    copies.item(A, 0, 0)
    with pytest.raises(SourceError, match="name its class, or a function that makes one"):
        copies.item(B, 0, 0)


def test_wrong_arguments_name_the_target(folder: pathlib.Path) -> None:
    (folder / "augment.py").write_text(AUGMENT)
    with pytest.raises(SourceError, match=r"^augment\.py:Part\(\) got an unexpected argument 'valid'"):
        made("augment.py:Part", valid=True).info()


def test_workers_in_other_processes_make_the_same(folder: pathlib.Path) -> None:
    (folder / "augment.py").write_text(AUGMENT)
    code = textwrap.dedent(
        """
        import sys
        from feeder_server.copies import Copies, Maker
        from feeder_server.target import parse_target
        for text in sys.argv[2:]:
            copies = Copies(Maker(parse_target(text), seed=3), seed=3, slot=int(sys.argv[1]), slots=2)
            for epoch, index in ((2, 1), (0, 0), (1, 4)):
                print(text, epoch, index, *copies.item(b"x", epoch, index))
        print([name for name in ("zmq", "keras", "tensorflow", "torch", "msgpack") if name in sys.modules])
        """
    )

    def run(slot: int, hash_seed: str) -> str:
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
        command = [sys.executable, "-c", code, str(slot), "augment.py:Part", "augment:val"]
        return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=True).stdout

    first = run(0, "1")
    assert first == run(1, "2")
    assert first.endswith("[]\n")


# -- what is drawn when the first item is made, and kept


class Rolling(Shuffled):
    """Draws its order when an item is first made, and keeps it over the epochs."""

    def __init__(self) -> None:
        self.drawn: list[int] | None = None

    def __len__(self) -> int:
        return 5

    def on_epoch_end(self) -> None:
        pass

    def __getitem__(self, index: int) -> tuple[object, ...]:
        if self.drawn is None:
            self.drawn = random.sample(range(5), 5)
        return self.drawn[index], random.random()


class RollingWithoutEpochs(Rolling):
    """The same, and nobody tells it of epochs."""

    on_epoch_end = None  # type: ignore[assignment]


@pytest.mark.parametrize("factory", [Rolling, RollingWithoutEpochs])
def test_a_copy_that_comes_late_has_drawn_what_the_others_have(factory: type[Rolling]) -> None:
    def warm() -> Copies:
        copies = copies_of(factory)
        copies.mode(warm=True, exclusive=False, rebuild=False)
        return copies

    early = warm()
    want = [[early.item(A, epoch, index) for index in range(5)] for epoch in range(4)]
    late, later = warm(), warm()
    assert late.item(A, 3, 0) == want[3][0]  # item 0 of another epoch is not the one that is to be made first
    assert [late.item(A, 3, index) for index in range(5)] == want[3]
    assert [later.item(A, 2, index) for index in (4, 1)] == [want[2][4], want[2][1]]


# -- streams that know their length


class Loader:
    """As torch's DataLoader."""

    def __init__(self, shard_index: int = 0, num_shards: int = 1) -> None:
        self.part = range(shard_index, 7, num_shards)

    def __len__(self) -> int:
        return len(self.part)

    def __iter__(self) -> Iterator[int]:
        return iter(self.part)


class WholeLoader(Loader):
    """Gives everything in each worker."""

    def __init__(self) -> None:
        super().__init__()


def test_a_pass_of_a_stream_is_that_of_all_workers() -> None:
    assert [copies_of(WholeLoader, slot=0, slots=slots).info().num_batches for slots in (1, 3)] == [7, 21]
    # Three parts of 3, 2 and 2: each worker knows its own only.
    assert [copies_of(Loader, slot=0, slots=slots).info().num_batches for slots in (1, 3)] == [7, None]
