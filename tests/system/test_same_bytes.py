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
    """Digests all sources, once the copies have been compared and all nodes are there, so that all workers share in it."""
    found = {}
    endpoints = [node.endpoint for node in nodes]
    for name in NAMES:
        with FeederClient(endpoints, name, transport=transport) as client:
            seen = client._core.roster.nodes
            until(lambda seen=seen: all(node.outcome for node in seen), "".join(n.output for n in nodes))  # type: ignore[misc]
            assert {node.outcome for node in seen} <= {"one worker", "parallel"}
        # With few batches on their way the second node gets its share, though the first may be there earlier.
        with FeederClient(endpoints, name, transport=transport, prefetch=4 * len(nodes)) as client:
            seen = client._core.roster.nodes
            until(lambda seen=seen: all(node.opened for node in seen), lambda client=client: repr(client))  # type: ignore[misc]
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
