"""Who reads what: passes, several clients, threads, and the end of a client."""

from __future__ import annotations

import gc
import re
import threading
from collections import Counter
from pathlib import Path

import pytest

from feeder_client import ClosedError, FeederClient, SourceNotFound
from tests.serving import ANY_PORT, SOURCES, Script, Serving, until
from tests.transport.conftest import Connect, Place, options_for


def label(batch: object) -> int:
    """The number of a batch of `Numbers`."""
    return int(batch[1][0, 0])  # type: ignore[index]


def gone(place: Place) -> int:
    """How many clients have gone, as the node's log has it. "vanished": it was just being sent something."""
    return len(re.findall(r"client .* (left|vanished)$", place.node.stderr, re.MULTILINE))


def test_batches_come_in_order_pass_after_pass(connect_any: Connect) -> None:
    client = connect_any("numbers")
    assert (len(client), client.num_batches) == (20, 20)
    for _ in range(3):
        assert [label(batch) for batch in client] == list(range(20))


def test_any_order_can_be_asked_for(connect: Connect) -> None:
    client = connect("numbers")
    order = [7, 3, 19, 0, 1, 2, -1, 12]
    assert [label(client[i]) for i in order[:-2]] == order[:-2]
    with pytest.raises(IndexError, match="batch 20 of 20"):
        client[20]


def test_epochs_advance_with_the_passes(connect: Connect) -> None:
    """Every pass holds every item once, each in its own order, the same for whoever asks."""
    client, other = connect("epochs"), connect("epochs")
    passes = [list(client) for _ in range(4)]
    for epoch, batches in enumerate(passes):
        assert [e for e, _ in batches] == [epoch] * 12
        assert sorted(i for _, i in batches) == list(range(12))
    assert len({tuple(batches) for batches in passes}) == 4
    assert [list(other) for _ in range(4)] == passes


def test_two_clients_of_one_source_in_different_epochs(connect: Connect) -> None:
    """The epoch belongs to the session: who begins anew does not set back who is far ahead."""
    ahead = connect("epochs")
    for _ in range(3):
        list(ahead)
    behind = connect("epochs")
    seen = [[], []]  # type: list[list[tuple[int, int]]]
    for one, two in zip(ahead, behind, strict=True):
        seen[0].append(one)
        seen[1].append(two)
    assert {e for e, _ in seen[0]} == {3}
    assert {e for e, _ in seen[1]} == {0}
    for batches in seen:
        assert sorted(i for _, i in batches) == list(range(12))


def test_a_second_trainer_finds_the_server_warm(connect: Connect, places: dict[bool, Place]) -> None:
    """The workers are the same processes, and begin with epoch 0 again."""
    node = places[False].node
    workers = set(node.workers)
    for _ in range(2):  # on a busy machine one of the workers may make a whole pass
        client = connect("pids")
        assert {pid for _, pid, _ in client} <= workers
        client.close()
    assert set(node.workers) == workers
    again = connect("epochs")
    assert {epoch for epoch, _ in again} == {0}


def test_training_and_validation_from_one_server(connect: Connect) -> None:
    train, val = connect("epochs"), connect("numbers")
    for epoch in range(3):
        assert {e for e, _ in train} == {epoch}
        assert [label(batch) for batch in val] == list(range(20))


def test_steps_make_a_shorter_pass(connect: Connect) -> None:
    client = connect("numbers", steps=5)
    assert [label(batch) for batch in client] == [0, 1, 2, 3, 4]


def test_a_share_of_the_batches(connect: Connect) -> None:
    shares = [connect("numbers", rank=rank, world_size=3) for rank in range(3)]
    got = [[label(batch) for batch in client] for client in shares]
    assert got == [list(range(rank, 18, 3)) for rank in range(3)]


def test_several_threads(connect_any: Connect) -> None:
    """Keras' own workers are threads that call seq[i]: every batch goes to the one who asked for it, in every pass."""
    client = connect_any("numbers")
    wrong: list[tuple[int, int]] = []
    got: Counter[int] = Counter()
    lock = threading.Lock()
    for _ in range(3):
        todo = list(range(20))

        def draw(todo: list[int] = todo) -> None:
            while True:
                with lock:
                    if not todo:
                        return
                    i = todo.pop(0)
                found = label(client[i])
                with lock:
                    got[i] += 1
                    if found != i:
                        wrong.append((i, found))

        threads = [threading.Thread(target=draw) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not wrong
    assert got == Counter({i: 3 for i in range(20)})


def test_an_unknown_source(connect_any: Connect) -> None:
    with pytest.raises(SourceNotFound, match=r"no source 'valid'; it serves: .*numbers"):
        connect_any("valid")


def test_a_client_that_slept_through_its_lease(tmp_path: Path, transport: str) -> None:
    """A laptop that was closed, or Ctrl-Z: the node has taken its blocks away, and it goes on all the same, with the right batches."""
    with Serving(
        tmp_path, f"{SOURCES}:Blocks", "--workers", "2", "--bind", ANY_PORT, constants={"feeder_server.gate.LEASE_SECONDS": 4}
    ) as node:
        code = f"""
            import numpy as np, os
            from feeder_client import FeederClient
            from tests.sources import pattern
            with FeederClient({node.endpoint!r}, transport={options_for(transport)["transport"]!r}) as client:
                held, passes = [], 0
                while passes < 2 or not os.path.exists("slept"):
                    for i, batch in enumerate(client):
                        assert np.array_equal(batch, pattern(i, 65536)), i
                        held.append((i, batch))
                        for number, earlier in held[:-5]:
                            assert np.array_equal(earlier, pattern(number, 65536)), number
                        del held[:-5]
                    passes += 1
                    print("pass", passes, flush=True)
                print("reconnects", client.stats().reconnects)
        """
        with Script(tmp_path, code, env={"PYTHONPATH": str(SOURCES.parents[1])}) as script:
            script.says("pass 1")
            asleep = pytest.importorskip("psutil").Process(script.pid)
            asleep.suspend()
            node.says("vanished")
            asleep.resume()
            (tmp_path / "slept").touch()
            assert script.wait() == 0, script.output
            assert "reconnects 1" in script.stdout


class TestTheEnd:
    """Of a client: by close, by with, by being dropped, by the end of its process."""

    def test_close_may_be_called_again(self, connect: Connect) -> None:
        client = connect("numbers")
        client[0]
        client.close()
        client.close()
        assert "closed" in repr(client)

    def test_used_after_close(self, connect: Connect) -> None:
        client = connect("numbers")
        running = iter(client)
        next(running)
        client.close()
        for use in (lambda: client[1], lambda: next(running), lambda: next(iter(client))):
            with pytest.raises(ClosedError):
                use()
        assert len(client) == 20

    def test_close_ends_a_wait(self, connect: Connect) -> None:
        """From another thread, while a batch is waited for that will not come."""
        client = connect("broken_stream")
        caught: list[BaseException] = []

        def read() -> None:
            try:
                while True:
                    try:
                        for _ in client:
                            pass
                    except ValueError:
                        continue
            except BaseException as e:
                caught.append(e)

        thread = threading.Thread(target=read)
        thread.start()
        client.close()
        thread.join(30)
        assert not thread.is_alive()
        assert [type(e) for e in caught] == [ClosedError]

    def test_dropped_without_close(self, places: dict[bool, Place], transport: str) -> None:
        """Nothing is left: the thread ends, the server is told, the blocks go home (the fixtures look)."""
        others = threading.enumerate()
        client = FeederClient(places[False].endpoint, "blocks", **options_for(transport))
        batch = client[0]
        before = gone(places[False])
        receivers = [t for t in threading.enumerate() if t.name == "feeder-receiver" and t not in others]
        del client
        gc.collect()
        until(lambda: not any(t.is_alive() for t in receivers), "the receiver thread ends")
        until(lambda: gone(places[False]) > before, "the server hears of it")
        assert batch[0] == batch.base[0]

    def test_the_interpreter_exits_without_close(self, places: dict[bool, Place], transport: str, tmp_path: Path) -> None:
        before = gone(places[False])
        code = f"""
            from feeder_client import FeederClient
            client = FeederClient({places[False].endpoint!r}, "blocks", transport={options_for(transport)["transport"]!r})
            kept = [client[i] for i in range(5)]
            print("got", len(kept))
        """
        with Script(tmp_path, code) as script:
            assert script.wait() == 0, script.output
            assert (script.stdout, script.stderr) == ("got 5\n", "")
        until(lambda: gone(places[False]) > before, "the server hears of it")

    def test_an_exception_in_the_script(self, places: dict[bool, Place], tmp_path: Path) -> None:
        """Its traceback, exit code 1, and no word of ours."""
        code = f"""
            from feeder_client import FeederClient
            with FeederClient({places[False].endpoint!r}, "blocks") as client:
                for batch in client:
                    raise RuntimeError("mine")
        """
        with Script(tmp_path, code) as script:
            assert script.wait() == 1, script.output
            assert script.stderr.rstrip().endswith("RuntimeError: mine")
            assert script.stderr.count('File "') == 1
