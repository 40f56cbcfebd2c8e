"""Workers that die: what they held is made again, the log says how they went, and a batch that kills them is given up."""

from __future__ import annotations

import gc
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feeder_client import FeederClient, SourceError, WorkerCrashed
from tests.leaks import PrivateFolders, feeder_files
from tests.serving import (
    ANY_PORT,
    QUICK_RESTARTS,
    SOURCES,
    Serving,
    arena_bytes,
    free_port,
    kill,
    posix_signals,
    removes_mapped_files,
    serve,
    until,
)
from tests.sources import pattern


def victim(folder: Path, what: object) -> int:
    """Process id of the worker that holds at `what`."""
    found = until(lambda: list(folder.glob(f"at-{what}-*")), f"a worker is at {what}")
    return int(found[0].name.rpartition("-")[2])


class TestKilled:
    @pytest.mark.parametrize("name", ["SIGKILL", pytest.param("SIGSEGV", marks=posix_signals)])
    @pytest.mark.parametrize("kilobytes", [0, 64], ids=["small", "blocks"])
    def test_in_mid_pass(self, tmp_path: Path, name: str, kilobytes: int) -> None:
        """Its batch and what it had queued are made by others: nothing lost, nothing doubled, in order; what it lent stays valid."""
        with serve(tmp_path, f"{SOURCES}:Holds", "-a", f"folder={tmp_path}", "-a", f"kilobytes={kilobytes}", workers=2) as node:
            with FeederClient(node.endpoint) as client:
                batches = iter(client)
                got = [next(batches) for _ in range(6)]
                pid = victim(tmp_path, 10)
                before = node.workers
                said = kill(pid, name)
                node.says(said)
                (tmp_path / "go").touch()
                got += list(batches)
                check(got, kilobytes)
                assert client.stats().batches == 30
                until(lambda: len(node.workers) == 2, "a new one is started")
                assert len(set(node.workers) & set(before)) == 1
                check(list(client), kilobytes)
                check(got, kilobytes)
            assert re.search(rf"WARNING worker [01] ended: {said}.*; a new one starts in 0.25 s", node.stderr)

    def test_the_only_worker(self, tmp_path: Path) -> None:
        with serve(tmp_path, f"{SOURCES}:Holds", "-a", f"folder={tmp_path}") as node, FeederClient(node.endpoint) as client:
            batches = iter(client)
            got = [next(batches) for _ in range(6)]
            kill(victim(tmp_path, 10))
            (tmp_path / "go").touch()
            assert got + list(batches) == list(range(30))

    def test_an_epoch_that_had_begun(self, tmp_path: Path) -> None:
        """A new worker's copy is brought to the epoch of the pass, and gives the same batches as the old one would have."""
        with serve(tmp_path, f"{SOURCES}:Epochs") as node, FeederClient(node.endpoint) as client:
            expected = [list(client) for _ in range(4)]
        with serve(tmp_path, f"{SOURCES}:Epochs", workers=2) as node, FeederClient(node.endpoint, prefetch=1) as client:
            got = [list(client) for _ in range(2)]
            batches = iter(client)
            third = [next(batches) for _ in range(3)]
            for pid in node.workers:
                kill(pid)
            got.append(third + list(batches))
            got.append(list(client))
            assert got == expected

    @removes_mapped_files
    def test_its_blocks_go(self, tmp_path: Path, private_folders: PrivateFolders) -> None:
        """Files of a dead worker go at once, but for those that a trainer still looks at; and its mappings go too."""
        arguments = (f"{SOURCES}:Blocks", "-a", "kilobytes=1024", "-a", "n=40")
        others = arena_bytes()  # of nodes that a whole session shares
        with serve(tmp_path, *arguments) as node, FeederClient(node.endpoint, prefetch=4) as client:
            held = client[0]
            for i in range(1, 10):
                client[i]
            (pid,) = node.workers
            kill(pid)
            for i in range(10, 40):
                np.testing.assert_array_equal(client[i], pattern(i, 1 << 20))
            np.testing.assert_array_equal(held, pattern(0, 1 << 20))
            until(lambda: arena_bytes() - others < 12 << 20, lambda: f"{arena_bytes() - others} bytes in the arena")
            gone = lambda: [name for name in feeder_files(private_folders) if name.endswith("(deleted)")]  # noqa: E731
            until(lambda: len(gone()) <= 1, lambda: f"still mapped: {gone()}")
            del held
            gc.collect()
            until(lambda: not gone(), lambda: f"still mapped: {gone()}")


def check(batches: list[Any], kilobytes: int) -> None:
    """That these are the thirty, in order."""
    assert len(batches) == 30
    for i, batch in enumerate(batches):
        np.testing.assert_array_equal(batch, pattern(i, kilobytes * 1024) if kilobytes else i)


class TestTheNodeIsKilled:
    """Its workers see the end of their pipe and go; those that can't look are ended by the system (`Serving.kill` waits for that)."""

    @pytest.mark.skipif(sys.platform == "darwin", reason="has no way to end a process with another one")
    @pytest.mark.parametrize("gil", ["true", "false"], ids=["while C code holds the GIL", "while it waits"])
    def test_in_the_middle_of_a_batch(self, tmp_path: Path, gil: str) -> None:
        arguments = (f"{SOURCES}:Sticks", "-a", f"folder={tmp_path}", "-a", f"gil={gil}", "-a", "at=0")
        with Serving(tmp_path, *arguments, "--workers", "1", "--bind", ANY_PORT) as node:
            until((tmp_path / "been").exists, "the worker sticks")
            node.kill()

    @posix_signals
    @pytest.mark.skipif(sys.platform == "darwin", reason="has no way to end a process with another one")
    def test_while_a_worker_is_stopped(self, tmp_path: Path) -> None:
        with serve(tmp_path, f"{SOURCES}:Numbers") as node:
            with FeederClient(node.endpoint) as client:
                client[0]
            kill(node.workers[0], "SIGSTOP")
            node.kill()


class TestUserCodeThatKills:
    def test_once(self, tmp_path: Path) -> None:
        """An accident: the batch is tried again, and the trainer notices nothing."""
        arguments = (f"{SOURCES}:Exits", "-a", f"folder={tmp_path}")
        # Without look-ahead: two workers could come to batch 5 of two epochs at the same moment, and both would be the first.
        with serve(tmp_path, *arguments, workers=2) as node, FeederClient(node.endpoint, lookahead=False) as client:
            assert list(client) == list(range(12))
            node.says("ended: exit code 7")
            assert node.stderr.count("ended: exit code 7") == 1

    def test_always(self, tmp_path: Path) -> None:
        """Three tries, then the trainer is told: at that batch, after all before it, with exit code, last words and number. And it
        is that batch alone: all others can be had."""
        with serve(tmp_path, f"{SOURCES}:Exits", workers=2) as node, FeederClient(node.endpoint, lookahead=False) as client:
            batches = iter(client)
            assert [next(batches) for _ in range(5)] == [0, 1, 2, 3, 4]
            with pytest.raises(WorkerCrashed) as caught:
                next(batches)
            said = str(caught.value)
            assert said.startswith("batch 5 of epoch 0 of source 'default': the worker that made it died 3 times")
            assert "exit code 7" in said
            assert "going down" in said
            until(lambda: node.stderr.count("ended: exit code 7") >= 3, "three crashes in the log")
            assert node.stderr.count("ended: exit code 7") == 3
            assert [client[i] for i in range(6, 12)] == list(range(6, 12))

    def test_as_often_as_the_user_says(self, tmp_path: Path) -> None:
        arguments = (f"{SOURCES}:Exits", "--max-retries", "0", "-a", "at=1")
        with serve(tmp_path, *arguments) as node, FeederClient(node.endpoint, lookahead=False) as client:
            assert client[0] == 0
            with pytest.raises(WorkerCrashed, match="died 1 time"):
                client[1]
            assert [client[i] for i in range(2, 12)] == list(range(2, 12))
            assert node.stderr.count("ended: exit code 7") == 1


class TestLoading:
    def test_a_replacement_that_can_not_load_says_why(self, tmp_path: Path) -> None:
        """The file was there when the server started, and is broken now: the others go on, and the log says what is wrong."""
        source = tmp_path / "data.py"
        good = "print('reading my code')\nclass S:\n  def __len__(self): return 20\n  def __getitem__(self, i): return i\n"
        source.write_text(good)
        with serve(tmp_path, "data.py:S", workers=2) as node, FeederClient(node.endpoint) as client:
            until(lambda: node.stderr.count("reading my code") == 2, lambda: node.output)
            assert list(client) == list(range(20))
            source.write_text("raise OSError('the disk is gone')\n")
            kill(node.workers[0])
            node.says("could not load it: OSError: the disk is gone")
            assert f'File "{source}", line 1' in node.stderr
            assert list(client) == list(range(20))
            source.write_text(good)
            until(lambda: node.stderr.count("reading my code") == 3, lambda: node.output)
            assert list(client) == list(range(20))

    @pytest.mark.parametrize("kind", ["indexed", "stream"])
    def test_replacements_that_never_load(self, tmp_path: Path, kind: str) -> None:
        """Of an indexed source the other worker can make everything, and does. What one worker has of a stream nobody else has:
        the server ends, and the trainer gets the reason instead of waiting for ever."""
        source = tmp_path / "data.py"
        source.write_text(
            "print('reading my code')\nfrom tests.sources import Holds\n"
            f"def indexed(): return Holds({str(tmp_path)!r}, n=300)\n"
            "def stream(shard_index, num_shards):\n"
            "  items = Holds('.', n=300)\n"
            "  for i in range(shard_index, 300, num_shards): yield items[i]\n",
            encoding="utf-8",
        )
        options: Any = {"constants": QUICK_RESTARTS, "env": {"PYTHONPATH": str(SOURCES.parents[1])}}
        with serve(tmp_path, f"data.py:{kind}", workers=2, **options) as node, FeederClient(node.endpoint, connect_timeout=5) as client:
            until(lambda: node.stderr.count("reading my code") == 2, lambda: node.output)
            batches = iter(client)
            got = [next(batches) for _ in range(5)]
            pid = victim(tmp_path, 10)
            source.write_text("raise OSError('the disk is gone')\n")
            kill(pid)
            if kind == "indexed":
                node.says("going on with 1 of 2 workers. worker")
                (tmp_path / "go").touch()
                assert got + list(batches) == list(range(300))
            else:
                with pytest.raises(WorkerCrashed, match="OSError: the disk is gone"):
                    list(batches)
                assert node.wait() == 5

    def test_the_client_hears_why_it_could_not_be_loaded(self, tmp_path: Path) -> None:
        """A trainer that was there first gets the error that the server ends with, not a lost connection."""
        (tmp_path / "bad.py").write_text("from tests.sources import hold\nhold('.', 'import')\nraise ValueError('bad data')\n")
        endpoint = f"tcp://127.0.0.1:{free_port()}"
        env = {"PYTHONPATH": str(SOURCES.parents[1])}
        with Serving(tmp_path, "bad.py:x", "--workers", "2", "--bind", endpoint, env=env) as node:
            caught = in_thread(lambda: FeederClient(endpoint, connect_timeout=30))
            node.says(" connected")
            (tmp_path / "go").touch()
            error = caught()
            assert isinstance(error, SourceError)
            assert isinstance(error, ValueError)
            assert "bad data" in str(error)
            assert f'File "{tmp_path / "bad.py"}", line 3' in str(error)
            assert node.wait() == 3


def in_thread(call: Callable[[], object]) -> Callable[[], BaseException | None]:
    """Calls something in a thread; the result waits for its end and gives what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as e:
            raised.append(e)

    thread = threading.Thread(target=run)
    thread.start()

    def result() -> BaseException | None:
        thread.join(60)
        assert not thread.is_alive()
        return raised[0] if raised else None

    return result
