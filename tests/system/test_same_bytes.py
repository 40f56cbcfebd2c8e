"""The SHA-256 over epochs of a source is one number, for any number of workers and nodes, transport, run and command line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from feeder_client import FeederClient
from feeder_wire.codec import encode
from tests.serving import Serving, serve, until

USERS = Path(__file__).with_name("users")
TARGETS = ("train=train.py:Train", "small=train.py:Small", "val=val.py:Validation")
NAMES = ("train", "small", "val")


def sha256(client: FeederClient, epochs: int = 2) -> str:
    """Reads some epochs, and digests structure, dtypes, shapes and bytes."""
    state = hashlib.sha256()
    for _ in range(epochs):
        for batch in client:
            encoded = encode(batch)
            state.update(encoded.head)
            state.update(encoded.to_bytes())
    return state.hexdigest()


def everything(*nodes: Serving, transport: str = "auto") -> dict[str, str]:
    """Digests all sources, by clients that come when the copies have been compared, so that all workers share in it."""
    found = {}
    for name in NAMES:
        with FeederClient([node.endpoint for node in nodes], name, transport=transport) as client:
            for number, node in enumerate(nodes):
                until(lambda n=number: client._core.roster.nodes[n].outcome, lambda n=node: n.output)  # type: ignore[misc]
                assert client._core.roster.nodes[number].outcome in ("one worker", "parallel"), node.output
        with FeederClient([node.endpoint for node in nodes], name, transport=transport) as client:
            found[name] = sha256(client)
            assert client.stats().nodes == len(nodes)
    return found


@pytest.fixture(scope="module", name="nodes")
def nodes_of_1_2_and_7() -> Iterator[dict[int, Serving]]:
    """Nodes by their number of workers."""
    with ExitStack() as stack:
        yield {n: stack.enter_context(serve(USERS, *TARGETS, workers=n)) for n in (1, 2, 7)}


@pytest.fixture(scope="module", name="reference")
def reference_of_one_worker(nodes: dict[int, Serving]) -> dict[str, str]:
    """What one worker makes."""
    found = everything(nodes[1])
    assert len(set(found.values())) == len(NAMES)
    return found


@pytest.mark.parametrize("transport", ["auto", "tcp"])
@pytest.mark.parametrize("workers", [1, 2, 7])
def test_any_number_of_workers_over_any_transport(
    nodes: dict[int, Serving], reference: dict[str, str], workers: int, transport: str
) -> None:
    assert everything(nodes[workers], transport=transport) == reference


@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_two_nodes(nodes: dict[int, Serving], reference: dict[str, str], transport: str) -> None:
    assert everything(nodes[2], nodes[1], transport=transport) == reference


def test_another_run_with_the_sources_in_another_order(reference: dict[str, str]) -> None:
    """The server is started anew, and what its sources have in common is imported by another one first."""
    with serve(USERS, *reversed(TARGETS), workers=2) as node:
        assert everything(node) == reference


def test_each_source_by_itself(reference: dict[str, str]) -> None:
    """It makes no difference what else is served."""
    for target in TARGETS:
        name, _, rest = target.partition("=")
        with serve(USERS, rest) as node, FeederClient(node.endpoint) as client:
            assert sha256(client) == reference[name], name


def test_another_seed_gives_other_bytes(reference: dict[str, str]) -> None:
    """Or the digests would say nothing of what is random."""
    with serve(USERS, *TARGETS, "--seed", "1") as node:
        found = everything(node)
    assert all(found[name] != reference[name] for name in NAMES)
