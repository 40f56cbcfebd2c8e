"""One body for every way that a batch can travel: shared memory or socket, with keys or without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from feeder_client import FeederClient
from feeder_wire.security import make_key_files
from tests.serving import SOURCES, Serving, serve

TRANSPORTS = ("shm", "tcp")
SERVED = {
    "numbers": "Numbers",
    "rich": "Rich",
    "shapes": "Shapes",
    "padded": "Shapes",
    "blocks": "Blocks",
    "epochs": "Epochs",
    "broken": "Broken",
    "broken_blocks": "Broken",
    "objects": "Objects",
    "oddly": "Oddly",
    "broken_stream": "broken_stream",
    "sharded": "sharded",
    "sharded_blocks": "sharded",
    "reused": "reused",
    "pids": "Pids",
}
ARGUMENTS = ["padded.padded=true", "broken_blocks.size=20000", "sharded_blocks.size=20000", "pids.n=40"]


@dataclass(frozen=True)
class Place:
    """A node, and what a client needs to be let in."""

    node: Serving
    options: dict[str, Any]

    @property
    def endpoint(self) -> str:
        return self.node.endpoint


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[bool, Place]]:
    """Nodes of two workers that serve everything, without keys and with. Both are up before a test begins to watch for leaks."""
    with ExitStack() as stack:
        yield {keys: stack.enter_context(start(tmp_path_factory.mktemp("node"), keys)) for keys in (False, True)}


@contextmanager
def start(folder: Path, keys: bool) -> Iterator[Place]:
    """A node that serves everything."""
    arguments = [f"{name}={SOURCES}:{attr}" for name, attr in SERVED.items()]
    for argument in ARGUMENTS:
        arguments += ["-a", argument]
    options: dict[str, Any] = {}
    if keys:
        make_key_files(folder / "server", "feeder")
        public, secret = make_key_files(folder / "clients", "trainer")
        arguments += ["--keys", str(folder / "server"), "--authorized-clients", str(public.parent)]
        options = {"keys": secret, "server_key": folder / "server" / "feeder.key"}
    with serve(folder, *arguments, workers=2) as node:
        yield Place(node, options)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """How large batches travel."""
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["open", "keys"])
def keys(request: pytest.FixtureRequest) -> bool:
    """Whether the node wants keys."""
    return bool(request.param)


Connect = Callable[..., FeederClient]


def options_for(transport: str) -> dict[str, Any]:
    """What makes a client take this transport."""
    return {"transport": "auto" if transport == "shm" else "tcp", "connect_timeout": 20.0}


@pytest.fixture
def connect(places: dict[bool, Place], transport: str) -> Iterator[Connect]:
    """Opens clients of the node without keys, over the transport of this test; they are closed at its end."""
    with ExitStack() as stack:

        def make(source: str, **options: Any) -> FeederClient:
            return stack.enter_context(FeederClient(places[False].endpoint, source, **options_for(transport), **options))

        yield make


@pytest.fixture
def connect_any(places: dict[bool, Place], transport: str, keys: bool) -> Iterator[Connect]:
    """The same of both nodes: for tests that should hold with keys too."""
    with ExitStack() as stack:

        def make(source: str, **options: Any) -> FeederClient:
            place = places[keys]
            return stack.enter_context(FeederClient(place.endpoint, source, **options_for(transport), **place.options, **options))

        yield make
