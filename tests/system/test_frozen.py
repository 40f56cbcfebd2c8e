"""Processes that stand still for a while and go on: a debugger, a machine that swaps, a laptop that is closed and opened again.

Each is stopped for longer than a connection may be silent and than the lease of a client lasts. Nothing is lost or doubled, and what the
training holds in its hands stays as it is.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.serving import SOURCES, Script, Serving, posix_signals, serve, until

pytestmark = posix_signals
LEASE, DEAD, FROZEN = 2.0, 3.0, 4.5
CONSTANTS = {
    "feeder_server.gate.LEASE_SECONDS": LEASE,
    "feeder_wire.frames.HEARTBEAT_SECONDS": 0.5,
    "feeder_wire.frames.DEAD_SECONDS": DEAD,
}
KILOBYTES, BATCHES = 64, 40
TRAINER = f"""
    import sys
    import time
    from pathlib import Path

    import numpy as np

    from feeder_client import FeederClient, receiver
    from feeder_wire import frames
    from tests.sources import pattern

    receiver.PING_SECONDS = 0.5
    frames.HEARTBEAT_SECONDS, frames.DEAD_SECONDS = 0.5, {DEAD}
    endpoint, transport, go = sys.argv[1:]
    held = []
    with FeederClient(endpoint, transport=transport, connect_timeout=60) as client:
        done = passes = 0
        while not done:
            done = Path(go).exists()  # then this pass is the last one
            got = 0
            for i, batch in enumerate(client):
                assert np.array_equal(batch, pattern(i, {KILOBYTES} * 1024)), (passes, i)
                got += 1
                time.sleep(0.005)  # a step of a training
                if i % 10 == 0 and len(held) < 200:
                    held.append((i, batch))
            assert got == {BATCHES}
            passes += 1
            print("pass", passes, "is over", flush=True)
    assert all(np.array_equal(batch, pattern(i, {KILOBYTES} * 1024)) for i, batch in held)
    print("all right")
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    arguments = (f"{SOURCES}:Blocks", "-a", f"n={BATCHES}", "-a", f"kilobytes={KILOBYTES}")
    with serve(tmp_path_factory.mktemp("node"), *arguments, workers=2, constants=CONSTANTS) as node:
        yield node


@contextmanager
def trainer(folder: Path, node: Serving, transport: str) -> Iterator[Script]:
    """Trains until there is a file ``go`` in the folder."""
    env = {"PYTHONPATH": os.pathsep.join([str(SOURCES.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])}
    with Script(folder, TRAINER, node.endpoint, transport, str(folder / "go"), env=env) as script:
        script.says("pass 2 is over")
        yield script


def freeze(pids: list[int]) -> None:
    """Stops processes for longer than anybody waits."""
    if sys.platform == "win32":
        raise NotImplementedError
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        until(lambda: time.monotonic() - began > FROZEN, "time goes by")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("who", "transport"), [("node", "auto"), ("node", "tcp"), ("worker", "auto"), ("client", "tcp"), ("all", "auto"), ("all", "tcp")]
)
def test_in_mid_pass(tmp_path: Path, node: Serving, who: str, transport: str) -> None:
    with trainer(tmp_path, node, transport) as script:
        workers = node.workers
        pids = {"node": [node.pid], "worker": workers[:1], "client": [script.pid], "all": [node.pid, *workers, script.pid]}[who]
        freeze(pids)
        passes = script.stdout.count("is over")
        until(lambda: script.stdout.count("is over") > passes + 2 or script.popen.poll() is not None, lambda: script.output)
        (tmp_path / "go").touch()
        assert script.wait() == 0, script.output
        assert script.stdout.endswith("all right\n")
        assert node.workers == workers  # none was taken for dead
    # Where all stood still, the client may be heard again before the node looks at leases.
    until(lambda: "vanished" in node.stderr or who != "client", "the lease ran out")
    assert "Traceback" not in node.stderr
