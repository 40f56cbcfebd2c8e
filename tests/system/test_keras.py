"""Keras on TensorFlow trains, evaluates and predicts from a real server. One script does it all, for the import takes seconds.

What Keras asks for in all its ways, on all backends, is tested in tests/keras; here it is the whole chain.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serving import SOURCES, Script, serve

pytestmark = pytest.mark.keras

SCRIPT = """
    import json, os, sys
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import numpy as np
    import keras
    from feeder_client import ConfigError, FeederSequence

    endpoint, told = sys.argv[1], {}

    class Watched(keras.Model):
        '''y = a x + b, that notes what it is trained on.'''
        def __init__(self):
            super().__init__()
            self.dense, self.seen = keras.layers.Dense(1), []
        def call(self, x):
            return self.dense(x)
        def train_step(self, data):
            self.seen += [round(float(v) * 63) for v in np.ravel(data[0])]
            return super().train_step(data)

    def model(eager=False):
        made = Watched() if eager else keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        made.compile(keras.optimizers.SGD(0.5), "mse", run_eagerly=eager)
        return made

    with FeederSequence(endpoint, "train") as train, FeederSequence(endpoint, "val") as val:
        made = model()
        history = made.fit(train, validation_data=val, epochs=8, verbose=0).history
        told["loss"], told["val_loss"] = history["loss"], history["val_loss"]
        told["evaluate"] = [made.evaluate(val, verbose=0) for _ in range(2)]
        told["predict"] = made.predict(val, verbose=0).ravel().tolist()
        a, b = (float(w.ravel()[0]) for w in made.get_weights())
        told["expected"] = [a * x + b for x in np.linspace(0, 1, 24, dtype=np.float32).tolist()]
        told["train_batches"], told["val_batches"] = train.stats().batches, val.stats().batches
        history = made.fit(train, epochs=2, verbose=0).history["loss"]
        told["second_fit"] = history
        told["verdict"] = train.verdict()

    for shuffle in (True, False):
        with FeederSequence(endpoint, "train") as train:
            made = model(eager=True)
            made.fit(train, epochs=3, shuffle=shuffle, verbose=0)
            told[f"shuffle={shuffle}"] = made.seen

    with FeederSequence(endpoint, "stream", steps=5) as stream:
        made = model(eager=True)
        made.fit(stream, epochs=3, verbose=0)
        told["stream"] = len(made.seen)

    with FeederSequence(endpoint, "broken") as broken:
        try:
            model().fit(broken, shuffle=False, verbose=0)
        except Exception as e:
            told["error"] = [type(e).__name__, str(e)]

    try:
        FeederSequence(endpoint, "train", workers=4)
    except ConfigError as e:
        told["workers"] = str(e)

    with FeederSequence.local("SOURCES:Samples", workers=2, args={"n": 32}) as local:
        told["local"] = model().fit(local, epochs=2, verbose=0).history["loss"]

    print(json.dumps(told))
"""

STREAM = """
import numpy as np

def stream():
    while True:
        x = np.random.rand(8, 1).astype(np.float32)
        yield x, 2 * x - 1

class Broken(list):
    def __getitem__(self, i):
        if i == 4:
            raise ValueError(f"picture {i} is broken")
        return super().__getitem__(i)

x = np.ones((8, 1), np.float32)
broken = Broken([(x, x)] * 8)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the script has seen."""
    folder = tmp_path_factory.mktemp("keras")
    (folder / "more.py").write_text(STREAM)
    targets = [f"train={SOURCES}:Samples", f"val={SOURCES}:Samples", "stream=more.py:stream", "broken=more.py:broken"]
    with serve(folder, *targets, "-a", "val.n=24", workers=2) as node:
        with Script(folder, SCRIPT.replace("SOURCES", str(SOURCES)), node.endpoint) as script:
            assert script.wait(100) == 0, script.output
            yield json.loads(script.stdout.splitlines()[-1])


def test_it_learns(told: dict[str, Any]) -> None:
    assert len(told["loss"]) == len(told["val_loss"]) == 8
    assert told["loss"][-1] < 0.05 * told["loss"][0]
    assert told["val_loss"][-1] < 0.05 * told["val_loss"][0]


def test_evaluate_and_predict_see_every_sample_in_order(told: dict[str, Any]) -> None:
    assert told["evaluate"][0] == pytest.approx(told["val_loss"][-1], abs=1e-6)
    assert told["evaluate"][0] == told["evaluate"][1]
    assert told["predict"] == pytest.approx(told["expected"], abs=1e-5)


def test_no_batch_is_counted_twice(told: dict[str, Any]) -> None:
    """8 epochs of 8 batches; 8 + 2 + 1 passes of 3. What Keras looks at before it trains is handed out again."""
    assert told["train_batches"] in range(64, 67)
    assert told["val_batches"] in range(33, 36)


def test_a_second_fit_goes_on(told: dict[str, Any]) -> None:
    assert len(told["second_fit"]) == 2
    assert told["second_fit"][0] <= told["loss"][-1] + 1e-3
    assert "training" in told["verdict"] or "too few" in told["verdict"]


def test_shuffled_every_sample_comes_once_an_epoch(told: dict[str, Any]) -> None:
    seen = told["shuffle=True"]
    epochs = [seen[e * 64 : (e + 1) * 64] for e in range(3)]
    for epoch in epochs:
        assert Counter(epoch) == Counter(range(64))
    assert epochs[0] != epochs[1]
    assert told["shuffle=False"] == [*range(64)] * 3


def test_a_stream(told: dict[str, Any]) -> None:
    assert told["stream"] == 3 * 5 * 8


def test_the_users_error_arrives_with_its_traceback(told: dict[str, Any]) -> None:
    """Keras raises an error of TensorFlow's; only the text of ours survives, so it is all in there."""
    text = told["error"][1]
    assert "batch 4 of epoch 0 of source 'broken': ValueError: picture 4 is broken (in worker " in text
    assert 'raise ValueError(f"picture {i} is broken")' in text
    assert "more.py" in text


def test_keras_own_workers_are_refused_in_words(told: dict[str, Any]) -> None:
    assert "the workers are the server's" in told["workers"]


def test_a_private_server(told: dict[str, Any]) -> None:
    first, last = told["local"]  # losses: that they are numbers shows that it trained; how far it gets is chance
    assert 0 < first < 100
    assert 0 < last < 100
