"""Streams: what a pass is, with one worker and with several, and how it ends."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from feeder_client import FeederClient, FeederError, SourceError
from tests.serving import SOURCES, Serving, kill, serve


@pytest.fixture(scope="module", name="nodes")
def nodes_of_1_and_3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Serving]]:
    """Nodes that serve every stream, by their number of workers."""
    targets = [f"{name}={SOURCES}:{name}" for name in ("counted", "sharded", "endless", "empty", "broken_stream")]
    targets += [f"blocks={SOURCES}:sharded", f"two={SOURCES}:sharded"]
    arguments = ["-a", "blocks.size=20000", "-a", "blocks.n=31", "-a", "sharded.n=31", "-a", "two.n=2"]
    with ExitStack() as stack:
        yield {n: stack.enter_context(serve(tmp_path_factory.mktemp("node"), *targets, *arguments, workers=n)) for n in (1, 3)}


class TestFinite:
    def test_one_worker(self, nodes: dict[int, Serving], caplog: pytest.LogCaptureFixture) -> None:
        """One pass an iteration, in the order of the stream; the second one begins again."""
        with FeederClient(nodes[1].endpoint, "counted") as client:
            assert client.num_batches is None
            for _ in range(3):
                assert list(client) == [0, 1, 2, 3, 4]
        assert "is a stream" not in caplog.text

    @pytest.mark.parametrize("transport", ["auto", "tcp"])
    @pytest.mark.parametrize("source", ["sharded", "blocks"])
    def test_three_workers_that_share_out_the_data(self, nodes: dict[int, Serving], transport: str, source: str) -> None:
        """Every item once in each pass, as often as it is read; a pass ends when all workers have ended."""
        with FeederClient(nodes[3].endpoint, source, transport=transport) as client:
            for _ in range(4):
                got = [i[0] if source == "blocks" else i for i in client]
                assert sorted(got) == list(range(31))

    def test_fewer_items_than_workers(self, nodes: dict[int, Serving]) -> None:
        """One worker has nothing at all: that is no error, and no hang."""
        with FeederClient(nodes[3].endpoint, "two") as client:
            for _ in range(3):
                assert sorted(client) == [0, 1]

    def test_several_copies_give_the_data_several_times(self, nodes: dict[int, Serving], caplog: pytest.LogCaptureFixture) -> None:
        with FeederClient(nodes[3].endpoint, "counted") as client:
            assert Counter(client) == Counter({i: 3 for i in range(5)})
        assert "is a stream and 3 workers each run a copy of it" in caplog.text
        assert "shard_index" in caplog.text

    def test_single(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with serve(tmp_path, f"{SOURCES}:counted", "--single", workers=3) as node, FeederClient(node.endpoint) as client:
            assert list(client) == [0, 1, 2, 3, 4]
        assert "is a stream" not in caplog.text

    @pytest.mark.parametrize("workers", [1, 3])
    def test_nothing_in_it(self, nodes: dict[int, Serving], workers: int) -> None:
        """An empty pass for who iterates; an error, not a hang, for who asks for a batch."""
        with FeederClient(nodes[workers].endpoint, "empty") as client:
            assert list(client) == []
            assert list(client) == []
        with FeederClient(nodes[workers].endpoint, "empty", steps=3) as client, pytest.raises(SourceError, match="without giving a batch"):
            client[0]

    def test_left_in_the_middle(self, nodes: dict[int, Serving]) -> None:
        """A loop that breaks: the next one goes on with the run, and the one after it is a whole one."""
        with FeederClient(nodes[3].endpoint, "sharded") as client:
            first = list(itertools.islice(client, 7))
            rest = list(client)
            assert sorted(first + rest) == list(range(31))
            assert sorted(client) == list(range(31))

    def test_two_clients(self, nodes: dict[int, Serving]) -> None:
        """Each has runs of its own."""
        with FeederClient(nodes[1].endpoint, "counted") as one, FeederClient(nodes[1].endpoint, "counted") as two:
            pairs = list(zip(one, two, strict=True))
            assert pairs == [(i, i) for i in range(5)]
            assert list(one) == list(two) == [0, 1, 2, 3, 4]

    def test_two_nodes(self, nodes: dict[int, Serving]) -> None:
        """The pass is over when both have ended."""
        with FeederClient([nodes[1].endpoint, nodes[3].endpoint], "counted") as client:
            for _ in range(3):
                assert Counter(client) == Counter({i: 4 for i in range(5)})


class TestSteps:
    def test_endless(self, nodes: dict[int, Serving]) -> None:
        """`steps` make a pass; the next one goes on where this one stopped."""
        with FeederClient(nodes[1].endpoint, "endless", steps=6) as client:
            assert len(client) == 6
            assert list(client) == [0, 1, 2, 3, 4, 5]
            assert list(client) == [6, 7, 8, 9, 10, 11]

    def test_endless_without(self, nodes: dict[int, Serving]) -> None:
        with FeederClient(nodes[3].endpoint, "endless") as client:
            with pytest.raises(TypeError, match="pass steps="):
                len(client)
            got = Counter(itertools.islice(client, 300))
            # Three copies: each gives its own numbers without a gap, and the count of a number is how many have come so far.
            assert [got[i] for i in range(max(got) + 1)] == sorted(got.values(), reverse=True)
            assert 1 <= got[0] <= 3  # on few cores the third may not have come to its turn yet

    def test_a_finite_one_is_chained(self, nodes: dict[int, Serving]) -> None:
        """As by a generator with `while True`: five items make passes of three."""
        with FeederClient(nodes[1].endpoint, "counted", steps=3) as client:
            assert [list(client) for _ in range(4)] == [[0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1]]

    def test_an_error_is_not_the_end(self, nodes: dict[int, Serving]) -> None:
        """A generator that raised can't go on, and a pass that broke is never taken for one that ended."""
        with FeederClient(nodes[1].endpoint, "broken_stream") as client:
            got = []
            with pytest.raises(ValueError, match="item 3 is broken"):
                for i in client:
                    got.append(i)
            assert got == [0, 1, 2]
            with pytest.raises(FeederError, match="item 3 is broken"):
                list(client)


class TestWhatDies:
    def test_a_worker_of_a_sharded_stream(self, tmp_path: Path) -> None:
        """Its shard is replayed up to where it was: every item once, all the same."""
        source = f"{SOURCES}:stream_that_exits"
        with serve(tmp_path, source, "-a", f"folder={tmp_path}", workers=3) as node, FeederClient(node.endpoint) as client:
            assert sorted(client) == list(range(20))
            node.says("ended: exit code 9")
            assert sorted(client) == list(range(20))

    def test_the_worker_of_an_endless_stream(self, tmp_path: Path) -> None:
        """It goes on, with a copy that begins anew."""
        with serve(tmp_path, f"{SOURCES}:endless") as node, FeederClient(node.endpoint, steps=50) as client:
            first = list(client)
            assert first == list(range(50))
            kill(node.workers[0])
            for _ in range(100):  # what was made before its death comes first
                later = list(client)
                assert len(later) == 50
                if min(later) < 50:
                    break
            assert min(later) == 0

    def test_a_node_of_two(self, tmp_path: Path) -> None:
        """Its part of the pass is gone with it (nobody else has that data's place); the pass ends, and the log says so."""
        source = f"{SOURCES}:endless"
        with serve(tmp_path, source) as one, serve(tmp_path, source) as two:
            with FeederClient([one.endpoint, two.endpoint], steps=100, connect_timeout=5) as client:
                got = list(itertools.islice(client, 50))
                one.kill()
                assert len(list(client)) == 100
                assert len(got) == 50
