from __future__ import annotations

import collections
import functools
import itertools
import math
import re
import types
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from feeder_server.source import IndexedSource, StreamSource, build
from feeder_wire.errors import ConfigError, SourceError


class Items:
    """The smallest thing that is indexed."""

    def __init__(self, n: int = 3, shuffle: bool = True) -> None:
        self.n = n
        self.calls: list[object] = []

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        if index >= self.n:
            raise IndexError(index)
        return index * 10


def make(factory: object, args: dict[str, Any] | None = None, shard: tuple[int, int] | None = None) -> IndexedSource | StreamSource:
    return build(factory, args or {}, shard=shard, label="augment.py:train")


def indexed(factory: object, **args: Any) -> IndexedSource:
    source = make(factory, args)
    assert isinstance(source, IndexedSource)
    return source


def stream(factory: object, shard: tuple[int, int] | None = None, **args: Any) -> StreamSource:
    source = make(factory, args, shard)
    assert isinstance(source, StreamSource)
    return source


def refused(factory: object, **args: Any) -> str:
    with pytest.raises(SourceError) as caught:
        make(factory, args)
    return str(caught.value)


def count(n: int = 3) -> Iterator[int]:
    yield from range(n)


# -- what is indexed


@pytest.mark.parametrize(
    "factory", [Items, Items(), lambda: Items(), functools.partial(Items, n=3), [0, 10, 20], collections.deque([0, 10, 20])]
)
def test_indexed(factory: object) -> None:
    source = indexed(factory)
    assert (source.num_batches, source.stateful) == (3, False)
    assert [source.get(i) for i in range(3)] == [0, 10, 20]
    with pytest.raises(IndexError):
        source.get(3)


def test_a_callable_object_that_can_be_indexed_is_an_object() -> None:
    class Both(Items):
        def __call__(self) -> None:
            raise AssertionError("not to be called")

    assert indexed(Both()).num_batches == 3


def test_indexed_wins_over_iterable() -> None:
    class Both(Items):
        def __iter__(self) -> Iterator[int]:
            raise AssertionError("not to be iterated")

        def __next__(self) -> int:
            raise AssertionError("not to be iterated")

    assert indexed(Both).get(1) == 10


@pytest.mark.parametrize(
    ("value", "expected"),
    [(5, 5), (None, None), (2**63 - 1, 2**63 - 1), (2**80, 2**63 - 1), (np.int64(7), 7), (math.inf, None), (0, 0)],
)
def test_num_batches(value: Any, expected: int | None) -> None:
    class AsProperty:
        num_batches = property(lambda self: value)

        def __getitem__(self, index: int) -> int:
            return index

    class AsMethod:
        def num_batches(self) -> Any:
            return value

        def __getitem__(self, index: int) -> int:
            return index

    assert indexed(AsProperty).num_batches == expected
    assert indexed(AsMethod).num_batches == expected


def test_a_length_beyond_a_c_integer() -> None:
    class Endless(Items):
        def __len__(self) -> int:
            return 2**63

    assert indexed(Endless).num_batches == 2**63 - 1


def test_the_length_may_change() -> None:
    items = Items()
    source = indexed(items)
    items.n = 2
    assert source.num_batches == 2


@pytest.mark.parametrize(
    ("value", "said"), [(2.5, "wrap it in int()"), (3.0, "wrap it in int()"), ("3", "wrap it in int()"), (-1, "negative")]
)
def test_lengths_that_are_none(value: Any, said: str) -> None:
    class Odd(Items):
        def __len__(self) -> Any:
            return value

    assert said in refused(Odd)


def test_a_length_that_raises() -> None:
    class Broken(Items):
        @property
        def num_batches(self) -> int:
            raise NotImplementedError("You need to implement")

    message = refused(Broken)
    assert "NotImplementedError: You need to implement" in message
    assert "in num_batches" in message


# -- epochs


def test_epochs() -> None:
    class Told(Items):
        def on_epoch_end(self) -> None:
            self.calls.append("end")

    class Numbered(Told):
        def set_epoch(self, epoch: int) -> None:
            self.calls.append(epoch)

    class Begun(Told):
        def on_epoch_begin(self) -> None:
            self.calls.append("begin")

    for cls, expected in ((Told, ["end", "end"]), (Numbered, [0, 1, 2]), (Begun, ["begin", "end", "begin", "end", "begin"]), (Items, [])):
        source = indexed(cls)
        assert source.stateful == bool(expected)
        for epoch in range(3):
            source.advance(epoch)
        assert source.subject.calls == expected


def test_the_empty_hooks_of_keras_are_no_state() -> None:
    names: dict[str, Any] = {"__name__": "keras.src.trainers.data_adapters.py_dataset_adapter"}
    exec("class PyDataset:\n    def on_epoch_end(self): pass\n    def on_epoch_begin(self): pass\n", names)

    class Plain(names["PyDataset"], Items):  # type: ignore[misc]
        pass

    class Own(Plain):
        def on_epoch_end(self) -> None:
            pass

    assert not indexed(Plain).stateful
    assert indexed(Own).stateful


@pytest.mark.keras
def test_keras_own_classes() -> None:
    import subprocess
    import sys

    code = """
import os; os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras
from feeder_server.source import build
class Plain(keras.utils.PyDataset):
    def __init__(self, n=2, **kwargs):
        super().__init__(**kwargs)
        self.n = n
    def __len__(self): return self.n
    def __getitem__(self, i): return i
class Endless(Plain):
    num_batches = None
class Shuffled(Plain):
    def on_epoch_end(self): pass
for cls in (Plain, Endless, Shuffled):
    s = build(cls, {"n": 4}, shard=(0, 2))
    print(type(s).__name__, s.num_batches, s.stateful, s.get(1))
import tensorflow as tf
for d in (lambda: tf.data.Dataset.range(3), tf.data.Dataset.range(3).repeat()):
    s = build(d, {}, shard=None)
    print(type(s).__name__, s.num_batches, type(next(s.start(None))).__module__)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert out == [
        "IndexedSource 4 False 1",
        "IndexedSource None False 1",
        "IndexedSource 4 True 1",
        "StreamSource 3 numpy",
        "StreamSource None numpy",
    ]


# -- what is a stream


class Again:
    def __init__(self, n: int = 3) -> None:
        self.n = n

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.n))


class Own:
    def __init__(self) -> None:
        self.i = -1

    def __iter__(self) -> Own:
        return self

    def __next__(self) -> int:
        self.i += 1
        if self.i == 3:
            raise StopIteration
        return self.i


class CallMe:
    def __call__(self) -> Iterator[int]:
        yield from range(3)


@pytest.mark.parametrize(
    ("factory", "restartable", "independent"),
    [
        (count, True, True),
        (lambda: count(), True, True),
        (lambda: map(int, range(3)), True, True),
        (lambda: count, True, True),
        (functools.partial(count, 3), True, True),
        (functools.wraps(count)(lambda **kw: count(**kw)), True, True),
        (CallMe(), True, True),
        (CallMe, True, True),
        (Again, True, False),
        (Again(), True, True),
        (lambda: Again(), True, False),
        (Own, False, False),
        (Own(), False, False),
        (lambda: Own(), True, True),
    ],
)
def test_streams(factory: object, restartable: bool, independent: bool) -> None:
    source = stream(factory)
    assert (source.restartable, source.independent, source.sharded) == (restartable, independent, False)
    for run in range(2 if restartable else 1):
        assert list(source.start(None, run)) == [0, 1, 2]


def test_an_old_style_sequence_without_a_length_is_iterated() -> None:
    class Old:
        def __getitem__(self, index: int) -> int:
            if index == 3:
                raise IndexError
            return index

    assert list(stream(Old).start(None)) == [0, 1, 2]


def test_a_streams_length_and_epoch() -> None:
    class Loader(Again):
        epoch = -1

        def __len__(self) -> int:
            if self.n == 0:
                raise TypeError("no length")
            return self.n

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    source = stream(Loader)
    assert source.num_batches == 3
    source.start(None, 4)
    assert source.subject.epoch == 4  # type: ignore[attr-defined]
    assert stream(lambda: Loader(0)).num_batches is None
    assert stream(count).num_batches is None


def test_a_dataset_gives_arrays() -> None:
    class Dataset(Again):
        def as_numpy_iterator(self) -> Iterator[int]:
            return iter([7])

    assert list(stream(Dataset).start(None)) == [7]


def test_nothing_of_a_generator_function_runs_before_its_start() -> None:
    started = []

    def train() -> Iterator[int]:
        started.append(1)
        yield 1

    source = stream(train)
    assert not started
    next(source.start(None))
    assert started


# -- shards


def both(shard_index: int, num_shards: int, n: int = 6) -> Iterator[int]:
    yield from range(shard_index, n, num_shards)


def one(shard: tuple[int, int] | None = None) -> Iterator[int]:
    index, total = shard or (0, 1)
    yield from range(index, 6, total)


def test_shards_are_given_to_who_takes_them() -> None:
    for factory in (both, one, lambda shard_index, num_shards: both(shard_index, num_shards)):
        source = stream(factory, (0, 2))
        assert source.sharded
        assert list(source.start((1, 2))) == [1, 3, 5]
    for alone in (both, one):
        source = stream(alone)
        assert not source.sharded
        assert list(source.start(None)) == list(range(6))


def test_shards_that_the_user_gave_stay() -> None:
    source = stream(both, (0, 2), shard_index=2, num_shards=3)
    assert not source.sharded
    assert list(source.start((0, 2))) == [2, 5]


def test_a_shard_of_the_users_own_stays() -> None:
    def train(shard: str = "train-00") -> Iterator[str]:
        yield shard

    source = stream(train, (1, 2))
    assert not source.sharded
    assert list(source.start((1, 2))) == ["train-00"]


def test_a_class_takes_its_shard_when_it_is_built() -> None:
    class Part:
        def __init__(self, shard_index: int = 0, num_shards: int = 1) -> None:
            self.part = range(shard_index, 6, num_shards)

        def __iter__(self) -> Iterator[int]:
            return iter(self.part)

    source = stream(Part, (1, 3))
    assert source.sharded
    assert list(source.start((1, 3))) == [1, 4]


def test_an_indexed_source_never_gets_a_shard() -> None:
    class Part(Items):
        def __init__(self, shard_index: int = 0, num_shards: int = 1) -> None:
            super().__init__()
            self.shard = shard_index, num_shards

    for factory in (Part, lambda shard_index, num_shards: Part(shard_index, num_shards), lambda shard=None: Part(*(shard or (0, 1)))):
        source = make(factory, shard=(1, 3))
        assert isinstance(source, IndexedSource)
        assert source.subject.shard == (0, 1)


# -- arguments


def train(batch_size: int = 32, shuffle: bool = True) -> Items:
    return Items()


def needs(folder: str, *, size: int = 1) -> Items:
    return Items()


def anything(x: int, **rest: object) -> Items:
    return Items()


def positional(x: int, /) -> Items:
    return Items()


def bare() -> Items:
    return Items()


def long(text: str = "x" * 100) -> Items:
    return Items()


class Nested:
    def __init__(self, size: int = 3) -> None:
        raise TypeError("inside")


@pytest.mark.parametrize(
    ("factory", "args", "said"),
    [
        (
            train,
            {"batchsize": 3},
            "got an unexpected argument 'batchsize'; did you mean 'batch_size'?; it takes: batch_size=32, shuffle=True",
        ),
        (train, {"q": 3}, "got an unexpected argument 'q'; it takes: batch_size=32, shuffle=True"),
        (needs, {}, "needs 'folder' (give -a folder=VALUE); it takes: folder, size=1"),
        (anything, {"y": 1}, "needs 'x' (give -a x=VALUE); it takes: x"),
        (positional, {"x": 1}, "can't be called with named arguments: "),
        (bare, {"x": 1}, "got an unexpected argument 'x'; it takes no arguments"),
        (long, {"x": 1}, "it takes: text='xxx"),
        (Items, {"m": 1}, "got an unexpected argument 'm'; it takes: n=3, shuffle=True"),
        (count, {"m": 1}, "got an unexpected argument 'm'; it takes: n=3"),
        (lambda: count, {"n": 1}, "it takes no arguments"),
        (max, {"a": 1}, "can't be called like this"),
    ],
)
def test_wrong_arguments(factory: object, args: dict[str, Any], said: str) -> None:
    message = refused(factory, **args)
    assert message.startswith("augment.py:train() ")
    assert said in message
    assert "Traceback" not in message
    with pytest.raises(TypeError):
        make(factory, args)


def test_a_type_error_inside_is_the_users() -> None:
    message = refused(Nested, size=4)
    assert "TypeError: inside (while augment.py:train was built)" in message
    assert "Traceback" in message
    assert "in __init__" in message


def test_arguments_arrive() -> None:
    assert indexed(Items, n=5).num_batches == 5
    assert list(stream(count, n=2).start(None)) == [0, 1]
    assert indexed(anything, x=1, y=2).num_batches == 3


def test_arguments_for_what_is_not_called() -> None:
    with pytest.raises(ConfigError, match=re.escape("augment.py:train is an Items, which isn't called, so it can't take the argument 'n'")):
        make(Items(), {"n": 3})


# -- refusals


async def coroutine() -> int:
    return 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (None, "None (a return or a yield is missing)"),
        ({"x": 1}, "a dict, which has no order of batches"),
        ({1, 2}, "a set"),
        ("text", "a str"),
        (b"text", "a bytes"),
        (np.zeros(3), "an ndarray, which is data, not batches"),
        (np.float32(3), "a float32"),
        ((1, 2), "a tuple, which is one batch or a whole data set"),
        (types.ModuleType("mypkg.data"), "the module mypkg.data (write mypkg.data:NAME)"),
        (7, "an int"),
        (object(), "an object"),
    ],
)
def test_what_is_no_source(thing: object, said: str) -> None:
    assert f"augment.py:train() gave {said}" in refused(lambda: thing)
    assert f"augment.py:train is {said}" in refused(thing)


def test_what_runs_only_once() -> None:
    message = refused(count())
    assert "is a generator, which runs only once: name the function that makes it" in message


@pytest.mark.parametrize("factory", [coroutine, async_generator, lambda: coroutine(), lambda: async_generator()])
def test_asynchronous_things(factory: Callable[[], object]) -> None:
    assert "async" in refused(factory)


def test_functions_without_end() -> None:
    def once() -> object:
        return twice

    def twice() -> object:
        return once

    assert "a function that gave a function" in refused(once)


def test_leaving_while_it_is_built() -> None:
    def train() -> None:
        raise SystemExit("enough")

    assert "SystemExit: enough (while augment.py:train was built)" in refused(train)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(interrupted)


def test_endless() -> None:
    assert list(itertools.islice(stream(itertools.count).start(None), 3)) == [0, 1, 2]
    assert list(itertools.islice(stream(lambda: itertools.repeat(1)).start(None), 2)) == [1, 1]
