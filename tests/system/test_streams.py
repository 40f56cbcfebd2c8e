"""Streams: what a pass is, with one worker and with several, and how it ends."""

from __future__ import annotations

import itertools
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from feeder_client import FeederClient, FeederError, SourceError
from tests.serving import SOURCES, posix_signals, serve

TRANSPORTS = ["auto", "tcp"]


class TestFinite:
    def test_one_worker(self, tmp_path: Path) -> None:
        """One pass an iteration, in the order of the stream; the second one begins again."""
        with serve(tmp_path, f"{SOURCES}:counted") as node, FeederClient(node.endpoint) as client:
            assert client.num_batches is None
            for _ in range(3):
                assert list(client) == [0, 1, 2, 3, 4]
            assert "is a stream" not in node.stderr

    @pytest.mark.parametrize("transport", TRANSPORTS)
    @pytest.mark.parametrize("size", [0, 20000], ids=["small", "blocks"])
    def test_three_workers_that_share_out_the_data(self, tmp_path: Path, transport: str, size: int) -> None:
        """Every item once in each pass, as often as it is read; the last pass ends when all workers have."""
        arguments = (f"{SOURCES}:sharded", "-a", "n=31", "-a", f"size={size}")
        with serve(tmp_path, *arguments, workers=3) as node, FeederClient(node.endpoint, transport=transport) as client:
            for _ in range(4):
                got = [i[0] if size else i for i in client]
                assert sorted(got) == list(range(31))

    def test_fewer_items_than_workers(self, tmp_path: Path) -> None:
        """Some workers have nothing at all: that is no error, and no hang."""
        with serve(tmp_path, f"{SOURCES}:sharded", "-a", "n=2", workers=3) as node, FeederClient(node.endpoint) as client:
            for _ in range(3):
                assert sorted(client) == [0, 1]

    def test_several_copies_give_the_data_several_times_and_say_so(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with serve(tmp_path, f"{SOURCES}:counted", workers=3) as node, FeederClient(node.endpoint) as client:
            assert Counter(client) == Counter({i: 3 for i in range(5)})
        assert "is a stream and 3 workers each run a copy of it" in caplog.text
        assert "shard_index" in caplog.text

    def test_single(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with serve(tmp_path, f"{SOURCES}:counted", "--single", workers=3) as node, FeederClient(node.endpoint) as client:
            assert list(client) == [0, 1, 2, 3, 4]
        assert "is a stream" not in caplog.text

    def test_nothing_in_it(self, tmp_path: Path) -> None:
        """An empty pass for who iterates; an error, not a hang, for who asks for a batch."""
        with serve(tmp_path, f"{SOURCES}:empty", workers=2) as node:
            with FeederClient(node.endpoint) as client:
                assert list(client) == []
                assert list(client) == []
            with FeederClient(node.endpoint, steps=3) as client, pytest.raises(SourceError, match="without giving a batch"):
                client[0]

    def test_left_in_the_middle(self, tmp_path: Path) -> None:
        """A loop that breaks: the next one goes on with the run, and the one after it is a whole one."""
        with serve(tmp_path, f"{SOURCES}:sharded", "-a", "n=20", workers=2) as node, FeederClient(node.endpoint) as client:
            first = list(itertools.islice(client, 7))
            rest = list(client)
            assert sorted(first + rest) == list(range(20))
            assert sorted(client) == list(range(20))

    def test_two_clients(self, tmp_path: Path) -> None:
        """Each has runs of its own."""
        with serve(tmp_path, f"{SOURCES}:counted") as node, FeederClient(node.endpoint) as one, FeederClient(node.endpoint) as two:
            pairs = list(zip(one, two, strict=True))
            assert pairs == [(i, i) for i in range(5)]
            assert list(one) == list(two) == [0, 1, 2, 3, 4]

    def test_two_nodes(self, tmp_path: Path) -> None:
        """The pass is over when both have ended."""
        source = f"{SOURCES}:counted"
        with serve(tmp_path, source) as one, serve(tmp_path, source, "-a", "n=40") as two, FeederClient([one.endpoint, two.endpoint]) as client:
            for _ in range(3):
                assert Counter(client) == Counter([*range(5), *range(40)])


class TestSteps:
    def test_endless(self, tmp_path: Path) -> None:
        """`steps` make a pass; the next one goes on where this one stopped."""
        with serve(tmp_path, f"{SOURCES}:endless") as node, FeederClient(node.endpoint, steps=6) as client:
            assert len(client) == 6
            assert list(client) == [0, 1, 2, 3, 4, 5]
            assert list(client) == [6, 7, 8, 9, 10, 11]

    def test_endless_without(self, tmp_path: Path) -> None:
        with serve(tmp_path, f"{SOURCES}:endless", workers=2) as node, FeederClient(node.endpoint) as client:
            with pytest.raises(TypeError, match="pass steps="):
                len(client)
            got = list(itertools.islice(client, 300))
            # Two copies: each gives its own numbers without a gap.
            assert all(got.count(i) <= 2 for i in set(got))
            assert set(range(max(got) // 4)) <= set(got)

    def test_a_finite_one_is_chained(self, tmp_path: Path) -> None:
        """As by a generator with `while True`: five items make passes of three."""
        with serve(tmp_path, f"{SOURCES}:counted") as node, FeederClient(node.endpoint, steps=3) as client:
            assert [list(client) for _ in range(4)] == [[0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1]]


class TestWhatDies:
    @posix_signals
    def test_a_worker_of_a_sharded_stream(self, tmp_path: Path) -> None:
        """Its shard is replayed up to where it was: every item once, all the same."""
        with serve(tmp_path, f"{SOURCES}:stream_that_exits", "-a", f"folder={tmp_path}", workers=3) as node, FeederClient(node.endpoint) as client:
            assert sorted(client) == list(range(20))
            node.says("ended: exit code 9")
            assert sorted(client) == list(range(20))

    @posix_signals
    def test_the_worker_of_an_endless_stream(self, tmp_path: Path) -> None:
        """It goes on, with a copy that begins anew."""
        with serve(tmp_path, f"{SOURCES}:endless") as node, FeederClient(node.endpoint, steps=50) as client:
            first = list(client)
            assert first == list(range(50))
            os.kill(node.workers[0], signal.SIGKILL)
            second = list(client)
            assert len(second) == 50
            assert second[-1] < 50

    @posix_signals
    def test_a_node_of_two(self, tmp_path: Path) -> None:
        """Its part of the pass is gone with it (nobody else has that data's place); the pass ends, and the log says so."""
        source = f"{SOURCES}:endless"
        with serve(tmp_path, source) as one, serve(tmp_path, source) as two:
            with FeederClient([one.endpoint, two.endpoint], steps=100, connect_timeout=5) as client:
                got = list(itertools.islice(client, 50))
                one.kill()
                assert len(list(client)) == 100
                assert len(got) == 50


def test_an_error_is_not_the_end(tmp_path: Path) -> None:
    """A generator that raised can't go on: the pass is an error each time it is asked, and the next run begins anew."""
    with serve(tmp_path, f"{SOURCES}:broken_stream") as node, FeederClient(node.endpoint) as client:
        got = []
        with pytest.raises(ValueError, match="item 3 is broken"):
            for i in client:
                got.append(i)
        assert got == [0, 1, 2]
        with pytest.raises(FeederError, match="item 3 is broken"):
            list(client)
