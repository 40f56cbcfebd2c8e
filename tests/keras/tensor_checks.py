"""FeederSequence on torch gives Keras' own reader tensors that are views: run as a script, with KERAS_BACKEND=torch."""

from __future__ import annotations

import importlib
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import keras
import ml_dtypes
import numpy as np
import torch
from checking import SOURCES, check, run
from keras.src.backend.torch.core import convert_to_tensor

from feeder_client import FeederSequence
from feeder_client.forms import keras_form, keras_tensors
from feeder_client.pinned import Pins

sequence: Any = importlib.import_module("feeder_client.sequence")


def local(attr: str = "Random", workers: int = 1, **options: Any) -> Any:
    return FeederSequence.local(f"{SOURCES}:{attr}", workers=workers, args=options.pop("args", None), **options)


class Noting(keras.Model):  # type: ignore[misc]
    """Notes the address of each input that a step is given; a training overwrites it, if it is told to."""

    def __init__(self, overwrite: bool = False) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1, kernel_initializer="zeros")
        self.taken: list[int] = []
        self.alive: list[Any] = []  # weak references
        self.overwrite = overwrite

    def stop(self, batch: int, logs: Any = None) -> None:
        self.stop_training = True

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def train_step(self, data: Any) -> Any:
        self.taken.append(data[0].data_ptr())
        assert not [ref for ref in self.alive if ref() is not None], "an earlier batch is still held"
        self.alive.append(weakref.ref(data[0]))
        logs = super().train_step(data)
        if self.overwrite:
            data[0].zero_()
        return logs

    def test_step(self, data: Any) -> Any:
        self.taken.append(data[0].data_ptr())
        return super().test_step(data)

    def predict_step(self, data: Any) -> Any:
        self.taken.append(data[0].data_ptr())
        return super().predict_step(data)


def noting(**options: Any) -> Noting:
    made = Noting(**options)
    made.compile(optimizer=keras.optimizers.SGD(1e-4), loss="mse")
    return made


@contextmanager
def given(seq: Any) -> Iterator[list[int]]:
    """The addresses of the inputs as the client has them."""
    found: list[int] = []
    get = seq._core.get

    def get_noting(*args: Any) -> Any:
        batch = get(*args)
        found.append(batch[0].ctypes.data)
        return batch

    seq._core.get = get_noting
    try:
        yield found
    finally:
        del seq._core.get


@check
def what_a_step_gets_lies_in_the_block() -> None:
    with local() as seq:
        made = noting()
        made.fit(seq, verbose=0)  # builds the model
        reads: list[Callable[[], Any]] = [
            lambda: made.fit(seq, epochs=2, verbose=0),
            lambda: made.fit(seq, shuffle=False, verbose=0),
            lambda: made.evaluate(seq, verbose=0),
            lambda: made.predict(seq, verbose=0),
        ]
        for read in reads:
            made.taken.clear()
            with given(seq) as addresses:
                read()
            assert len(made.taken) in (6, 12)
            # Of the first two of an epoch it isn't known yet whether they come again, and a training may overwrite what it is given.
            views = [a == b for a, b in zip(made.taken, addresses[-len(made.taken) :], strict=True)]
            assert views == [False, False, True, True, True, True] * (len(views) // 6), views
    with local(transport="tcp") as seq:
        made = noting()
        with given(seq) as addresses:
            made.fit(seq, verbose=0)
        assert made.taken[2:] == addresses[-4:]


@check
def it_is_page_locked_where_that_is_wanted() -> None:
    registered: list[int] = []
    over = SimpleNamespace(done=lambda: True, wait=lambda: True)

    def register(address: int, size_bytes: int) -> int:
        registered.append(address)
        return 0

    cuda: Any = SimpleNamespace(register=register, unregister=lambda address: 0, mark=lambda: over)
    for pin in (True, False):
        with local(pin=pin) as seq:
            seq._pins = Pins(cuda, least_bytes=1)
            made = noting()
            made.fit(seq, verbose=0)
            locked = [address - address % 4096 in registered for address in made.taken[2:]]
            assert locked == [pin] * 4, pin
            assert seq[0][0].flags.writeable
        registered.clear()
    with local(pin=True) as seq:
        noting().fit(seq, verbose=0)
        assert seq._pins is None, "there is no CUDA here"


@check
def by_hand_it_is_numpy() -> None:
    """Also where a user's class stands between Keras and feeder, and does NumPy's things with a batch."""

    class Scaled(FeederSequence):
        def __getitem__(self, index: int) -> Any:
            x, y = super().__getitem__(index)
            assert type(x) is np.ndarray
            assert type(y) is np.ndarray
            return x.astype(np.float16), y

    with local() as seq:
        assert [type(leaf) for leaf in seq[0]] == [np.ndarray] * 2
        noting().fit(seq, verbose=0)
        assert [type(leaf) for leaf in seq[0]] == [np.ndarray] * 2
        for i in range(1, 4):
            seq[i]
        x = seq[4][0]
        gone = weakref.ref(x)
        seq[5]  # looks at who asks, but not so that what that holds stays
        del x
        assert gone() is None
        assert {type(leaf) for batch in seq for leaf in batch} == {np.ndarray}
    with Scaled.local(f"{SOURCES}:Random", workers=1) as seq:
        noting().fit(seq, verbose=0)


def trained(form: str, dtype: str) -> list[Any]:
    """Weights and results of a training, in bytes."""
    keras.utils.set_random_seed(3)
    classes = form == "classes"
    inputs = [keras.Input((4096,), name=name, dtype=dtype) for name in (("left", "right") if form == "dict" else ("x",))]
    dense = keras.layers.Dense(2 if classes else 1)
    parts = [keras.layers.Rescaling(1 / 64)(one) for one in inputs]
    out = dense(keras.layers.Add()(parts) if len(parts) > 1 else parts[0])
    made = keras.Model(inputs if len(inputs) > 1 else inputs[0], out)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if classes else "mse"
    made.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
    with local(args={"form": form, "dtype": dtype}) as seq:
        val = None if form == "weighted" else seq
        weight = {0: 1.0, 1: 3.0} if classes else None
        history = made.fit(seq, epochs=2, verbose=0, validation_data=val, class_weight=weight)
        results = [history.history, made.evaluate(seq, verbose=0), np.asarray(made.predict(seq, verbose=0)).tobytes()]
    return [[w.tobytes() for w in made.get_weights()], *results]


@check
def a_training_computes_the_same() -> None:
    """Bit for bit, as with the arrays that Keras copies."""
    asked = sequence.takes_tensors
    for form, dtype in (("weighted", "float32"), ("dict", "float64"), ("classes", "float32"), ("xy", "uint16")):
        views: list[bool] = []

        def counting(*args: Any) -> bool:
            views.append(bool(asked(*args)))  # noqa: B023
            return views[-1]  # noqa: B023

        try:
            sequence.takes_tensors = counting
            found = trained(form, dtype)
            sequence.takes_tensors = lambda *args: False
            assert found == trained(form, dtype), (form, dtype)
        finally:
            sequence.takes_tensors = asked
        assert any(views), "Keras' own reader was not known"
    with local(args={"form": "bare"}) as seq:
        made = keras.Sequential([keras.Input((4096,)), keras.layers.Dense(1, kernel_initializer="ones")])
        assert made.predict(seq, verbose=0).shape == (86, 1)


@check
def every_type_becomes_what_keras_makes_of_it() -> None:
    """Or stays an array, where torch has another type for it or none, or where it can't be written."""
    numbers = np.arange(6).reshape(2, 3)
    frozen = numbers.astype("f4")
    frozen.flags.writeable = False
    whole = [numbers.astype(kind) for kind in ("?", "i1", "i2", "i4", "i8", "u1", "f2", "f4", "f8", "c8", "c16", "q", ml_dtypes.bfloat16)]
    made = [numbers.astype(kind) for kind in (">i4", ">f8")] + [numbers.astype("f4").T, numbers[:, ::-1].astype("f8")[::2]]
    odd = [np.array(2.5, "f4"), np.array(7), np.zeros((0, 3), "f4"), np.zeros((2, 0), "u1"), np.array(1.5, ml_dtypes.bfloat16)]
    as_before = [numbers.astype(kind) for kind in ("u2", "u4")] + [frozen]
    unknown = [numbers.astype("u8"), np.array(["a", "é"]), np.array(["2020-01-01"], "M8[D]"), numbers.astype(ml_dtypes.float8_e5m2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for array in (*whole, *made, *odd, *as_before):
            form, found = keras_form((array, None)), keras_tensors((array, None))
            assert len(form) == len(found) == 1
            assert isinstance(found[0], torch.Tensor) == (not any(array is one for one in as_before)), array.dtype
            left, right = convert_to_tensor(form[0]), convert_to_tensor(found[0])
            assert (left.dtype, left.shape, left.device) == (right.dtype, right.shape, right.device), array.dtype
            assert torch.equal(left, right), array.dtype
            if any(array is one for one in whole):
                assert right.data_ptr() == array.ctypes.data
        for array in unknown:
            assert keras_tensors((array,))[0] is array
    batch: Any = ({"a": [numbers, 1.5, "text", np.float32(2)], "b": None}, [], (), {}, numbers)
    found = keras_tensors(batch)
    assert found[1:4] == ((), (), {})
    inner = found[0]["a"]
    assert type(inner) is tuple
    assert inner[1:] == (1.5, "text", np.float32(2))
    assert type(inner[3]) is np.float32
    assert found[0]["b"] is None
    assert type(keras_tensors([numbers, numbers])) is list


@check
def what_may_come_again_is_not_overwritten() -> None:
    """A training may do what it likes with its input. The client has kept the batch, for it doesn't know yet whether Keras only looks."""
    for n, epochs in ((1, 1), (2, 3), (6, 2)):
        with local(args={"n": n}) as seq:
            made = noting(overwrite=True)
            made.fit(seq, shuffle=False, epochs=epochs - 1, verbose=0)
            made.fit(seq, shuffle=False, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=made.stop)])
            kept = list(seq._core._kept.values())
            assert kept, n
            assert all(x.any() for x, _ in kept), n
            assert len(made.taken) == (epochs - 1) * n + 1


if __name__ == "__main__":
    run(sys.argv[1:])
