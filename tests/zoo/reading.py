"""What the tests of the zoo do with a source: read passes of it, and say which samples came and with which bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from feeder_client import FeederClient
from feeder_wire.codec import encode
from tests.serving import ANY_PORT, Serving, until

HERE = Path(__file__).parent
LOADING_SECONDS = 200.0  # for four processes that import TensorFlow on a machine under load


@dataclass(frozen=True)
class Pass:
    """One pass over a source.

    Attributes:
        ids: of its samples, in the order in which they came.
        digests: SHA-256 of each batch: structure, dtypes, shapes and bytes.
    """

    ids: list[int]
    digests: list[str]

    @property
    def sha256(self) -> str:
        """Of the whole pass."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()


@dataclass(frozen=True)
class Case:
    """A source of the zoo.

    Attributes:
        target: file of this folder and name in it.
        outcome: what its copies are found to be, by three workers.
        ids: the samples of a pass.
    """

    target: str
    outcome: str
    ids: Iterable[int] = field(default_factory=tuple)


def digest(batch: Any) -> str:
    """SHA-256 of a batch."""
    encoded = encode(batch)
    return hashlib.sha256(encoded.head + bytes(encoded.to_bytes())).hexdigest()


def ids_of(batch: Any) -> list[int]:
    """Which samples these are: that is the last thing in each batch of the zoo."""
    last = batch[-1]
    return ids_of(last) if isinstance(last, tuple) else [int(k) for k in np.ravel(np.asarray(last))]


def read(batches: Iterable[Any]) -> Pass:
    """Reads one pass."""
    ids: list[int] = []
    digests: list[str] = []
    for batch in batches:  # one at a time: what is kept here would be counted against the memory of the server
        ids += ids_of(batch)
        digests.append(digest(batch))
    return Pass(ids, digests)


def outcome_of(client: FeederClient, node: Serving) -> str:
    """What the comparison of the copies found; waits for it."""
    return until(lambda: client._core.roster.nodes[0].outcome, lambda: f"{client!r} {node.output}", LOADING_SECONDS)


def serve_all(
    stack: ExitStack,
    folder: Path,
    cases: dict[str, Case],
    *arguments: str,
    workers: Sequence[int],
    of_one: Sequence[str] = (),
    **options: Any,
) -> Any:
    """Starts a node for each number of workers, side by side, each serving all of these; returns them by that number.

    `of_one` are more arguments of the node with one worker, by which the others are measured.
    """
    targets = [f"{name}={HERE / case.target}" for name, case in cases.items()]
    common = (*targets, *arguments, "--bind", ANY_PORT, "--workers")
    nodes = {n: stack.enter_context(Serving(folder, *common, str(n), *(of_one if n == 1 else ()), **options)) for n in workers}
    for node in nodes.values():
        node.says("feeder-server ready at", LOADING_SECONDS)
    return nodes


def check(name: str, case: Case, one: Serving, several: Serving) -> None:
    """Every sample once in each pass, in the order and with the bytes that one worker gives."""
    with FeederClient(one.endpoint, name) as client:
        want = [read(client) for _ in range(3)]
        assert outcome_of(client, one) == "one worker"
    with FeederClient(several.endpoint, name) as client:
        early = [read(client) for _ in range(2)]  # perhaps while they are compared, when the first worker makes the most
        assert outcome_of(client, several) == case.outcome, several.stderr
    with FeederClient(several.endpoint, name) as client:
        later = [read(client) for _ in range(3)]  # all workers share in it
    for got in (early, later):
        assert [sorted(p.ids) for p in got] == [sorted(case.ids)] * len(got)
        assert [p.ids for p in got] == [p.ids for p in want[: len(got)]]
        assert [p.digests for p in got] == [p.digests for p in want[: len(got)]]
