"""A training that ends in all the ways in which one does, and what becomes of its server."""

from __future__ import annotations

from pathlib import Path

import pytest

from feeder_client import FeederClient
from feeder_server.status import Visitor
from tests.serving import SOURCES, Script, alive, arena_bytes, arenas, arenas_since, serve, until, workers_of
from tests.system.training import is_pattern

MEGABYTE = 1 << 20
right = is_pattern(MEGABYTE)


def test_killed_while_its_node_goes_on(tmp_path: Path) -> None:
    """Within seconds what it held is free again, long before its lease is over: blocks in its hands, requests that nobody will read."""
    code = """
        import sys
        from feeder_client import FeederClient
        with FeederClient(sys.argv[1]) as client:
            held = [client[i] for i in range(12)]
            print("holds", client.stats().borrowed_bytes, flush=True)
            sys.stdin.read()
            while True:
                pass
    """
    blocks = (f"{SOURCES}:Blocks", "-a", "n=40", "-a", "kilobytes=1024", "--memory", "64MiB")
    with (
        serve(tmp_path, *blocks, workers=2, constants={"feeder_server.gate.LEASE_SECONDS": 1000}) as node,
        Visitor(node.endpoint) as visitor,
    ):
        with Script(tmp_path, code, node.endpoint) as script, FeederClient(node.endpoint) as other:
            script.says("holds")
            held = int(script.stdout.split()[1])
            assert held >= 12 * MEGABYTE
            assert all(right(i, batch) for i, batch in enumerate(other))
            assert visitor.look().clients == 2
            full = arena_bytes()
            script.signal("SIGKILL")
            script.wait()
            until(lambda: visitor.look().clients == 1, "the node has noticed")
            until(lambda: arena_bytes() <= full - 10 * MEGABYTE, lambda: f"{arena_bytes()} bytes, and {full} before")
            report = visitor.look()
            assert (report.queued, report.restarts) == (0, 0)
            assert all(right(i, batch) for i, batch in enumerate(other))


KERAS = """
    import os, sys
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import numpy as np
    import keras
    from feeder_client import ClosedError, FeederSequence

    class Mine:
        def __len__(self): return 30
        def __getitem__(self, i): return np.full((4, 3), i, np.float32), np.zeros((4, 1), np.float32)

    class Fails(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 7:
                raise RuntimeError("in the middle of a step")

    class Says(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            print("epoch", epoch, flush=True)

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    closed = FeederSequence.local(Mine(), workers=1)
    try:
        model.fit(closed, verbose=0, callbacks=[Fails()])
    except RuntimeError as e:
        print("raised:", e)
    model.fit(closed, verbose=0)  # it can be used on
    print("batches:", closed.stats().batches >= 37)
    closed.close()
    for use in (lambda: closed[0], lambda: next(iter(closed)), lambda: model.fit(closed, verbose=0)):
        try:
            use()
        except ClosedError as e:
            print("closed:", e)
    print("repr:", closed)
    train = FeederSequence.local(Mine(), workers=2)
    model.fit(train, epochs=10**6, verbose=0, callbacks=[Says()])
"""


@pytest.mark.keras
@pytest.mark.timeout(300)
def test_keras(tmp_path: Path) -> None:
    """An exception in a step, a sequence that is used after its end, and Ctrl-C in `fit`."""
    before = arenas()
    with Script(tmp_path, KERAS) as script:
        script.says("epoch 2\n", 200)
        below = workers_of(script.pid)
        assert len(below) == 3
        script.signal("SIGINT")
        assert script.wait() != 0, script.output
        until(lambda: not alive(below), lambda: f"left: {alive(below)}")
        until(lambda: not arenas_since(before), lambda: f"left: {arenas_since(before)}")
        assert "KeyboardInterrupt" in script.stderr
        assert "feeder_server" not in script.stderr
        lines = [line for line in script.stdout.splitlines() if not line.startswith("epoch")]
        assert lines[:2] == ["raised: in the middle of a step", "batches: True"]
        assert lines[2:5] == ["closed: this feeder was closed; make a new one"] * 3
        assert lines[5] == "repr: <FeederSequence 'default', closed>"
