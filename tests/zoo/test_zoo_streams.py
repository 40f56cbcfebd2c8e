"""Generators and iterators of all the kinds that people write: what a pass is with one worker, with three, and with three and --single."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from feeder_client import FeederClient
from tests.serving import Serving
from tests.zoo.reading import Case, Pass, read, serve_all

ALL = range(24)
SHARDED = {name: Case(f"sources_streams.py:{name}", "stream", ALL) for name in ("sharded", "shard_pair", "same_array")}
PLAIN = {
    "one_pass": Case("sources_streams.py:one_pass", "stream", ALL),
    "wrapped": Case("sources_streams.py:wrapped", "stream", ALL),
    "wrapped_object": Case("sources_streams.py:wrapped_object", "stream", ALL),
    "called": Case("sources_streams.py:called", "stream", ALL),
    "iterable": Case("sources_streams.py:Iterable", "stream", ALL),
    "hand_written": Case("sources_streams.py:HandWritten", "stream", ALL),
    "loader": Case("sources_streams.py:Loader", "stream", ALL),
    "zipped": Case("sources_streams.py:zipped", "stream", ALL),
    "zipped_twins": Case("sources_streams.py:zipped_twins", "stream", ALL),
    "chained": Case("sources_streams.py:chained", "stream", range(20)),
    "with_gaps": Case("sources_streams.py:with_gaps", "stream", ALL),
}
FEW = ("with_gaps", "zipped_twins")  # of these two batches may well be alike
OTHERS = {
    "endless": Case("sources_streams.py:endless", "stream"),
    "loader_of_part": Case("sources_streams.py:loader_of_part", "stream"),
}
X = np.random.RandomState(3).rand(24, 8, 8).astype("float32")  # of sources_streams.py


@pytest.fixture(scope="module", name="nodes")
def nodes_of_1_and_3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Serving]]:
    """Nodes that serve all of them, by their number of workers; 0: three workers, and each source is run by one of them."""
    cases = {**SHARDED, **PLAIN, **OTHERS}
    with ExitStack() as stack:
        nodes = serve_all(stack, tmp_path_factory.mktemp("node"), cases, workers=(1, 3))
        nodes[0] = serve_all(stack, tmp_path_factory.mktemp("node"), cases, "--single", workers=(3,))[3]
        yield nodes


def passes(node: Serving, name: str) -> list[Pass]:
    """Two of them, by one client."""
    with FeederClient(node.endpoint, name) as client:
        return [read(client) for _ in range(2)]


@pytest.mark.parametrize("name", SHARDED)
def test_shared_out(nodes: dict[int, Serving], name: str) -> None:
    """Every sample once in each pass, in batches that are those of one worker; in what order they arrive is open."""
    one, three, single = (passes(nodes[n], name) for n in (1, 3, 0))
    assert single == one
    assert passes(nodes[1], name) == one
    for got, want in zip(three, one, strict=True):
        assert sorted(want.ids) == sorted(got.ids) == list(ALL)
        assert Counter(got.digests) == Counter(want.digests)


@pytest.mark.parametrize("name", PLAIN)
def test_not_shared_out(nodes: dict[int, Serving], name: str) -> None:
    """One worker gives the data once, with the same bytes in each session; each of three gives it once, under a seed of its own."""
    one, three, single = (passes(nodes[n], name) for n in (1, 3, 0))
    assert single == one
    assert passes(nodes[1], name) == one
    want = sorted(PLAIN[name].ids)
    for got, alone in zip(three, one, strict=True):
        assert sorted(alone.ids) == want
        assert Counter(got.ids) == Counter({k: 3 for k in want})
        # The first of the three does what the only one does; the others draw other numbers.
        assert Counter(got.digests) >= Counter(alone.digests)
        if name not in FEW:
            assert len(set(got.digests)) == 3 * len(alone.digests)
    assert name in FEW or not set(one[0].digests) & set(one[1].digests)


def test_parts_of_unequal_length(nodes: dict[int, Serving]) -> None:
    """A pass is over when all parts are, though each worker knows the length of its own only."""
    for n, length in ((1, 12), (3, None)):
        with FeederClient(nodes[n].endpoint, "loader_of_part") as client:
            assert client.num_batches == length
            for _ in range(3):
                assert sorted(read(client).ids) == list(range(23))


def test_endless(nodes: dict[int, Serving]) -> None:
    """With one worker the same bytes in each session; with three, no two give the same."""
    seen = []
    for n in (1, 1, 0, 3):
        with FeederClient(nodes[n].endpoint, "endless", steps=24) as client:
            seen.append([read(client) for _ in range(2)])
    assert seen[0] == seen[1] == seen[2]
    for got in seen[0]:
        assert Counter(got.ids) == Counter({k: 2 for k in ALL})  # a pass of 24 steps is two over the data
    digests = [d for got in seen[3] for d in got.digests]
    assert len(digests) == len(set(digests)) == 48


def test_two_generators_stay_in_step(nodes: dict[int, Serving]) -> None:
    """Pictures and masks by two generators that were seeded alike."""
    for n in (1, 3):
        with FeederClient(nodes[n].endpoint, "zipped_twins") as client:
            for x, (mask, _) in client:
                np.testing.assert_array_equal(mask, x > 0.5)


def test_an_array_that_is_used_again(nodes: dict[int, Serving]) -> None:
    """What was handed out doesn't change when the generator writes the next batch into its array."""
    with FeederClient(nodes[3].endpoint, "same_array") as client:
        batches = list(client)
    assert sorted(float(x.min()) for x, _ in batches) == [float(k) for k in range(0, 24, 2)]
    for x, y in batches:
        assert (x == y[:, None, None]).all()
