"""What Keras does with a FeederSequence on one backend: run as a script, in a process of its own, with KERAS_BACKEND set.

    python training.py keras|tf_keras [check ...]

The loss notes what reaches it, with Keras' graph compilation off; `compiled` and `large` run as users do.
"""

from __future__ import annotations

import importlib
import random
import sys
from typing import Any

import numpy as np
from checking import SOURCES, check, refused, run

from feeder_client import FeederSequence

keras: Any = importlib.import_module(sys.argv[1])
KERAS_2 = sys.argv[1] == "tf_keras"
BACKEND = "tf_keras" if KERAS_2 else keras.backend.backend()
N, SAMPLES = 8, 30


def local(attr: str = "Samples", workers: int = 2, **options: Any) -> Any:
    args = options.pop("args", None)
    return FeederSequence.local(f"{SOURCES}:{attr}", workers=workers, args=args, keras=keras, **options)


def array(tensor: Any) -> Any:
    """As NumPy array; None where Keras only builds the model, with tensors that have no values."""
    if KERAS_2:
        return tensor.numpy()
    if BACKEND == "jax":
        jax: Any = importlib.import_module("jax")
        if isinstance(tensor, jax.core.Tracer):
            return None
    if BACKEND == "torch" and tensor.is_meta:
        return None
    return keras.ops.convert_to_numpy(tensor)


class Noting(keras.losses.Loss):  # type: ignore[misc]
    """Notes the targets and weights that it is given, one entry for each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[int]] = []
        self.weights: list[Any] = []

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        found = array(y_true)
        if found is not None:
            self.batches.append([round(v) for v in found.ravel().tolist()])
            if sample_weight is not None:
                self.weights.append(array(sample_weight).ravel().tolist())
        mean = keras.backend.mean if KERAS_2 else keras.ops.mean
        return mean(y_pred) * 0.0

    def taken(self) -> list[list[int]]:
        batches, self.batches = self.batches, []
        return batches


def model(width: int = 3, inputs: Any = None, eager: bool = True, loss: Any = None, **options: Any) -> tuple[Any, Any]:
    """A model whose output is the first column of its input, and its loss."""
    parts = [keras.Input((width,), name=name) for name in (inputs or ["x"])]
    joined = parts[0] if len(parts) == 1 else keras.layers.Add()(parts)
    first = np.zeros((width, 1), np.float32)
    first[0] = 1.0 / len(parts)
    dense = keras.layers.Dense(1, use_bias=False)
    made = keras.Model(parts[0] if len(parts) == 1 else parts, dense(joined))
    dense.set_weights([first])
    noting = loss or Noting()
    made.compile(optimizer=keras.optimizers.SGD(0.0), loss=noting, run_eagerly=eager, **options)
    return made, noting


def flat(batches: list[list[int]]) -> list[int]:
    return [sample for batch in batches for sample in batch]


def epoch(e: int, first: int = 0, batches: int = N) -> list[int]:
    return [first + 1000 * e + i for i in range(SAMPLES if batches == N else batches * 4)]


def passes(batches: list[list[int]], n: int = N) -> list[list[int]]:
    """Flat lists of the samples of each pass of `n` batches."""
    return [flat(batches[i : i + n]) for i in range(0, len(batches), n)]


class StopAfter(keras.callbacks.Callback):  # type: ignore[misc]
    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch + 1 == self.batches:
            self.model.stop_training = True


@check
def fit_in_order() -> None:
    with local() as seq:
        made, loss = model()
        made.fit(seq, epochs=3, shuffle=False, verbose=0)
        assert passes(loss.taken()) == [epoch(0), epoch(1), epoch(2)]
        made.fit(seq, epochs=2, shuffle=False, verbose=0)
        assert passes(loss.taken()) == [epoch(3), epoch(4)]


@check
def who_waits() -> None:
    """On TensorFlow a thread of Keras' reads ahead: what that waits isn't all lost, and is told as what it may be at most."""
    with local() as seq:
        made, _ = model()
        made.fit(seq, verbose=0)
        assert seq.stats().reads_ahead == (BACKEND in ("tensorflow", "tf_keras"))


@check
def fit_skips() -> None:
    """What can't be made is left out: the pass has all its steps, with the batch before it in its place."""
    with local(args={"broken": 3}, on_error="skip") as seq:
        made, loss = model()
        history = made.fit(seq, epochs=3, shuffle=False, verbose=0)
        assert len(history.history["loss"]) == 3
        for e, found in enumerate(passes(loss.taken())):
            samples = epoch(e)
            assert found == samples[:12] + samples[8:12] + samples[16:], found
        assert seq.stats().skipped == 3, seq.stats()
        made.evaluate(seq, verbose=0)
        made.fit(seq, epochs=2, verbose=0)
        for found in passes(loss.taken())[1:]:
            e = min(found) // 1000
            assert sorted(found) == sorted(epoch(e)[:12] + epoch(e)[8:12] + epoch(e)[16:]), found
    with local(args={"broken": 3}, on_error="skip", skip_budget=0) as seq:
        refused(["skip_budget=0 allows no more", "no such image: 3.png"], model()[0].fit, seq, shuffle=False, verbose=0)


@check
def fit_shuffled() -> None:
    with local() as seq:
        made, loss = model()
        e = 0
        for epochs in (3, 1, 2):
            made.fit(seq, epochs=epochs, shuffle=True, verbose=0)
            found = passes(loss.taken())
            for one in found:
                assert sorted(one) == epoch(e), (e, one)
                e += 1
            assert any(one != sorted(one) for one in found) or epochs == 1, found


@check
def shuffled_by_our_own_seed() -> None:
    """The order is ours, not Keras', so that it can be prefetched: it is the same whatever Keras' order is."""
    orders = []
    for seed in (1, 2):
        random.seed(seed)
        with local(seed=7) as seq:
            made, loss = model()
            made.fit(seq, epochs=3, shuffle=True, verbose=0)
            orders.append(passes(loss.taken()))
    assert [[sorted(one) for one in order] for order in orders] == [[epoch(0), epoch(1), epoch(2)]] * 2
    assert orders[0] == orders[1]


@check
def one_batch_and_two() -> None:
    """As short as what Keras looks at."""
    for n, shuffle in ((1, True), (2, False), (2, True)):
        with local(workers=1, args={"n": n}) as seq:
            made, loss = model()
            made.fit(seq, epochs=3, shuffle=shuffle, verbose=0)
            expected = [[1000 * e + i for i in range(n * 4 - 2)] for e in range(3)]
            assert [sorted(one) for one in passes(loss.taken(), n)] == expected, (n, shuffle)


@check
def evaluate_and_predict() -> None:
    with local() as seq:
        made, loss = model()
        for e in range(2):
            found = np.asarray(made.predict(seq, verbose=0)).ravel()
            assert found.tolist() == epoch(2 * e), found
            made.evaluate(seq, verbose=0)
            assert flat(loss.taken()) == epoch(2 * e + 1)


@check
def validation() -> None:
    with local() as seq, local(args={"first": 500000, "n": 5}) as val:
        made, loss = model()
        for fits in range(2):
            made.fit(seq, epochs=2, shuffle=True, validation_data=val, verbose=0)
            found = flat(loss.taken())
            for e in range(2 * fits, 2 * fits + 2):
                assert sorted(s for s in found if s // 1000 == e) == epoch(e)
                assert [s for s in found if s // 1000 == 500 + e] == [500000 + 1000 * e + i for i in range(18)]
            assert len(found) == 2 * (SAMPLES + 18)


@check
def weights() -> None:
    with local("Weighted") as seq:
        made, loss = model()
        made.fit(seq, epochs=1, shuffle=False, verbose=0)
        assert np.allclose(flat(loss.weights), [i / 10 for i in range(SAMPLES)])
        assert flat(loss.taken()) == epoch(0)
    with local("Classes") as seq:
        made, loss = model()
        made.fit(seq, epochs=1, shuffle=False, class_weight={0: 1.0, 1: 10.0, 2: 100.0}, verbose=0)
        assert np.allclose(flat(loss.weights), [10.0 ** (i % 3) for i in range(SAMPLES)])


@check
def early_stop() -> None:
    for shuffle in (False, True):
        with local() as seq:
            made, loss = model()
            made.fit(seq, epochs=2, shuffle=shuffle, callbacks=[StopAfter(3)], verbose=0)
            stopped = flat(loss.taken())
            assert len(stopped) in (10, 12), stopped
            assert len(set(stopped)) == len(stopped)
            made.fit(seq, epochs=2, shuffle=shuffle, verbose=0)
            for one in passes(loss.taken()):
                assert sorted(s % 1000 for s in one) == epoch(0), one
                assert shuffle or one == epoch(one[0] // 1000), one


@check
def steps_per_epoch() -> None:
    with local() as seq:
        made, loss = model()
        made.fit(seq, epochs=4, steps_per_epoch=4, shuffle=False, verbose=0)
        found = passes(loss.taken(), 4)
        if KERAS_2:  # begins anew with each epoch
            assert [[s % 1000 for s in one] for one in found] == [epoch(0, batches=4)] * 4, found
        else:
            assert flat(found) == epoch(0) + epoch(1), found


@check
def error_in_order() -> None:
    for shuffle in (False, True):
        with local(args={"broken": 5}) as seq:
            made, loss = model()
            text = refused(["no such image: 5.png", "sources.py"], made.fit, seq, epochs=1, shuffle=shuffle, verbose=0)
            assert BACKEND in ("tensorflow", "tf_keras") or text.startswith("SourceError"), text
            if not shuffle:
                assert loss.taken() == [epoch(0)[i : i + 4] for i in range(0, 20, 4)]


@check
def forms() -> None:
    for form, inputs in (("dict", ["left", "right"]), ("odd", ["left", "right"]), ("list", None)):
        with local("Forms", workers=1, args={"form": form}) as seq:
            made, loss = model(inputs=inputs)
            made.fit(seq, epochs=2, shuffle=False, verbose=0)
            assert passes(loss.taken()) == [epoch(0), epoch(1)], form
    with local("Forms", workers=1, args={"form": "bare"}) as seq:
        made, _ = model()
        assert np.asarray(made.predict(seq, verbose=0)).ravel().tolist() == epoch(0)


@check
def streams() -> None:
    for args, options in (({"ends": False}, {"steps": N}), ({"ends": True}, {"steps": N})):
        with local("stream", workers=1, args=args, **options) as seq:
            made, loss = model()
            made.fit(seq, epochs=2, shuffle=False, verbose=0)
            found = flat(loss.taken())
            assert found == ([*range(64)] if not args["ends"] else [*range(32)] * 2), found
    if not KERAS_2:  # which needs a length
        with local("stream", workers=1, args={"ends": False}) as seq:
            assert seq.num_batches is None
            made, loss = model()
            made.fit(seq, epochs=2, steps_per_epoch=5, verbose=0)
            assert flat(loss.taken()) == [*range(40)]


@check
def compiled() -> None:
    with local() as seq:
        made, _ = model(eager=False, loss="mae", metrics=["mse"])
        history = made.fit(seq, epochs=3, verbose=0).history
        assert history["loss"] == [0.0] * 3, history  # the model gives back what it is told to find
        assert made.evaluate(seq, verbose=0)[0] == 0.0
        assert np.asarray(made.predict(seq, verbose=0)).ravel().tolist() == epoch(4)


@check
def as_a_dataset_of_the_framework() -> None:
    with local() as seq:
        made, loss = model()
        if BACKEND == "torch":
            loader: Any = importlib.import_module("torch.utils.data").DataLoader
            dataset = loader(seq.as_torch_dataset(), batch_size=None)
        elif BACKEND == "jax":
            return  # would need one of the other two beside it
        else:
            dataset = seq.as_tf_dataset()
        for e in (0, 2):
            made.fit(dataset, epochs=2, verbose=0)
            assert passes(loss.taken()) == [epoch(e), epoch(e + 1)]


@check
def large() -> None:
    """No block is given back too early: a batch that is overwritten while it is read has targets that don't fit its inputs."""
    with local("Large", args={"n": 40}, prefetch=4) as seq:
        width = 16384
        inputs = keras.Input((width,))
        dense = keras.layers.Dense(1, use_bias=False)
        made = keras.Model(inputs, dense(inputs))
        dense.set_weights([np.full((width, 1), 1 / width, np.float32)])
        made.compile(optimizer=keras.optimizers.SGD(0.0), loss="mae")
        history = made.fit(seq, epochs=3, verbose=0).history
        assert max(history["loss"]) < 1e-3, history


@check
def workers_are_refused() -> None:
    words = ["workers and use_multiprocessing are Keras' own", "FeederSequence.local(..., workers=4)"]
    refused(words, FeederSequence, "tcp://127.0.0.1:1", keras=keras, workers=4)
    refused(words, FeederSequence, "tcp://127.0.0.1:1", keras=keras, use_multiprocessing=True)
    refused(words, local, use_multiprocessing=True)
    with local(max_queue_size=3) as seq:
        seq.workers, seq.use_multiprocessing, seq.max_queue_size = 0, False, 20
        refused(words, setattr, seq, "workers", 2)
        refused(words, setattr, seq, "use_multiprocessing", True)
        assert (seq.workers, seq.use_multiprocessing) == (1, False)
        if KERAS_2:
            made, loss = model()
            refused(words, made.fit, seq, verbose=0, workers=2)
            refused(words, made.fit, seq, verbose=0, workers=1, use_multiprocessing=True)
            loss.taken()
            made.fit(seq, verbose=0, workers=1, max_queue_size=3)
            assert sorted(s % 1000 for s in flat(loss.taken())) == epoch(0)


if __name__ == "__main__":
    run(sys.argv[2:])
