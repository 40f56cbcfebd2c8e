"""`as_tf_dataset`: run as a script, in a process of its own, for TensorFlow's threads stay in Python's list of threads."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import tensorflow as tf
from checking import SOURCES, check, refused, run

from feeder_client import FeederClient, FeederSequence

N, SAMPLES = 8, 30


def client(attr: str = "Samples", workers: int = 2, kind: Any = FeederClient, **options: Any) -> Any:
    args = options.pop("args", None)
    return kind.local(f"{SOURCES}:{attr}", workers=workers, args=args, **options)


def epoch(e: int) -> list[int]:
    return [1000 * e + i for i in range(SAMPLES)]


def samples(dataset: Any) -> list[int]:
    return [int(v) for _, y in dataset for v in y.numpy().ravel()]


@check
def skips() -> None:
    """The length was promised, so another batch of the pass stands in."""
    with client(args={"broken": 2}, on_error="skip") as c:
        dataset = c.as_tf_dataset()
        for _ in range(2):
            assert sum(1 for _ in dataset) == 8


@check
def each_iteration_is_one_pass() -> None:
    with client() as c:
        dataset = c.as_tf_dataset()
        assert dataset.cardinality() == N
        assert dataset.element_spec == (tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None, None], tf.float32))
        for e in range(3):
            assert samples(dataset) == epoch(e)
        assert c.stats().batches <= 3 * N + 1  # the one for the spec was kept
        assert samples(c.as_tf_dataset()) == epoch(3)
        assert samples(dataset.repeat(2)) == epoch(4) + epoch(5)


@check
def left_in_the_middle() -> None:
    with client() as c:
        dataset = c.as_tf_dataset()
        assert samples(dataset.take(3)) == epoch(0)[:12]
        assert samples(dataset) == epoch(1)


@check
def fit() -> None:
    for kind in (FeederClient, FeederSequence):
        with client(kind=kind) as c:
            import keras

            x = keras.Input((3,))
            dense = keras.layers.Dense(1, use_bias=False)
            model = keras.Model(x, dense(x))
            dense.set_weights([np.array([[1], [0], [0]], np.float32)])
            model.compile(keras.optimizers.SGD(0.0), loss="mae")
            dataset = c.as_tf_dataset()
            assert model.fit(dataset, epochs=3, verbose=0).history["loss"] == [0.0] * 3
            assert model.predict(dataset.map(lambda x, y: x), verbose=0).ravel().tolist() == epoch(3)
            assert samples(dataset.prefetch(tf.data.AUTOTUNE)) == epoch(4)


@check
def a_model_that_is_not_built_needs_the_lengths() -> None:
    import keras

    spec = (tf.TensorSpec([None, 3], tf.float32), tf.TensorSpec([None, 1], tf.float32))
    with client() as c:
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile("sgd", "mae")
        dataset = c.as_tf_dataset(output_signature=spec)
        assert dataset.element_spec == spec
        model.fit(dataset, verbose=0)
        assert samples(dataset) == epoch(1)


@check
def errors_come_in_order() -> None:
    with client(args={"broken": 5}) as c:
        found: list[int] = []

        def read() -> None:
            for _, y in c.as_tf_dataset():
                found.append(int(y[0, 0]))

        refused(["no such image: 5.png", "sources.py", "InvalidArgumentError"], read)
        assert found == [0, 4, 8, 12, 16]
    with client(args={"broken": 0}) as c:
        refused(["no such image: 0.png"], c.as_tf_dataset)
    dataset = None
    with client() as c:
        dataset = c.as_tf_dataset()
    refused(["closed"], samples, dataset)


@check
def streams() -> None:
    with client("stream", workers=1) as c:  # ends, nobody knows when
        dataset = c.as_tf_dataset()
        assert dataset.cardinality() == tf.data.UNKNOWN_CARDINALITY
        for _ in range(3):
            assert samples(dataset) == [*range(32)]
    with client("stream", workers=1, args={"ends": False}, steps=5) as c:
        dataset = c.as_tf_dataset()
        assert dataset.cardinality() == 5
        assert samples(dataset) == [*range(20)]
        assert samples(dataset) == [*range(20, 40)]
    with client("stream", workers=1, args={"ends": False}) as c:
        dataset = c.as_tf_dataset()
        assert samples(dataset.take(30)) == [*range(120)]


@check
def structures() -> None:
    with client("mixed", workers=1) as c:
        dataset = c.as_tf_dataset()
        spec = dataset.element_spec
        assert spec[0]["text"] == tf.TensorSpec([None], tf.string)
        assert spec[0]["inner"] == (tf.TensorSpec([None], tf.int16), (tf.TensorSpec([], tf.float64), tf.TensorSpec([], tf.string)))
        assert spec[1] == tf.TensorSpec([None, None, None], tf.uint8)
        assert len(spec) == 2  # a None at the end goes
        for i, (x, y) in enumerate(dataset):
            assert x["text"].numpy().tolist() == [f"é{i}".encode(), b"longer" * (i + 1)]
            assert x["bytes"].numpy().tolist() == [b"a", b"bc"]
            assert x["inner"][0].numpy().tolist() == list(range(i + 1))
            assert float(x["inner"][1][0]) == i / 2
            assert x["inner"][1][1].numpy() == b"scalar"
            assert x["big"].numpy().tolist() == [1.0, i]
            assert x["bool"].numpy().tolist() == [True, False]
            assert y.shape == (2, 3 + i, 3)
    with client("middle", workers=1) as c:
        (x, nothing, w), *_ = c.as_tf_dataset()
        assert nothing is None
        assert x.numpy().tolist() == w.numpy().tolist() == [0, 1]
    with client("one_array", workers=1) as c:
        assert [int(v[0]) for v in c.as_tf_dataset()] == [0, 1, 2]
    with client("dates", workers=1) as c:
        refused(["UnsupportedBatch", "batch[1]['when']", "datetime64"], c.as_tf_dataset)
    with client("changing", workers=1) as c:
        refused(["float64 of rank 1", "int64 of rank 1", "in a tf.data.Dataset all have one structure"], list, c.as_tf_dataset())


@check
def arrays_are_taken_without_a_copy() -> None:
    with client("Large", kind=FeederSequence, args={"n": 12}) as c:
        handed: list[int] = []
        form = c._form

        def noting(batch: Any) -> Any:
            handed.append(batch[0].ctypes.data)
            return form(batch)

        c._form = noting
        taken = []
        for x, _ in c.as_tf_dataset():
            view = np.asarray(memoryview(x))  # of the tensor's own memory
            taken.append(view.ctypes.data)
        assert taken == handed, (taken, handed)
        assert all(address % 64 == 0 for address in taken)


@check
def tensors_keep_their_blocks() -> None:
    with client("Large", args={"n": 60}) as c:
        dataset = c.as_tf_dataset()
        kept = []
        for i, (x, y) in enumerate(dataset):
            if i % 7 == 0:
                kept.append((x, y))
        for _ in dataset:
            pass
        for x, y in kept:
            assert (x.numpy() == y.numpy()).all()


if __name__ == "__main__":
    run(sys.argv[1:])
