"""The description of a batch that a worker sends to its node, see regrets.py. Without NumPy: the node starts without it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

MOST_LINES = 20


@dataclass(frozen=True, slots=True)
class Sample:
    """A batch in words.

    Attributes:
        lines: one per leaf: path, dtype, shape and size; at most `MOST_LINES` and one that counts the rest.
        nbytes: of the whole batch as it is sent.
        warnings: what it costs more than it has to, and the cure.
        generators: the random generators of the source's own that were set before it was made, by name; cut as `lines` are.
    """

    lines: tuple[str, ...]
    nbytes: int
    warnings: tuple[str, ...]
    generators: tuple[str, ...] = ()


def cut(lines: Sequence[str]) -> tuple[str, ...]:
    """At most `MOST_LINES` of them, and one that counts the rest."""
    more = len(lines) - MOST_LINES
    return (*lines[:MOST_LINES], f"and {more:,} more") if more > 0 else tuple(lines)


def to_text(sample: Sample) -> str:
    """As JSON, for a message."""
    return json.dumps(asdict(sample))


def from_text(text: str) -> Sample:
    """Read what `to_text` wrote.

    Raises:
        ValueError: it is something else.
    """
    found = json.loads(text)
    if not isinstance(found, dict) or found.keys() != {"lines", "nbytes", "warnings", "generators"} or type(found["nbytes"]) is not int:
        raise ValueError("not the description of a batch")
    for name in ("lines", "warnings", "generators"):
        if not isinstance(found[name], list) or not all(isinstance(line, str) for line in found[name]):
            raise ValueError("not the description of a batch")
    return Sample(tuple(found["lines"]), found["nbytes"], tuple(found["warnings"]), tuple(found["generators"]))


def size_text(nbytes: int) -> str:
    """A size as people say it."""
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if nbytes >= 0.1 * size:
            return f"{nbytes / size:.3g} {unit}" if nbytes < 1000 * size else f"{nbytes / size:,.0f} {unit}"
    return f"{nbytes} bytes"


def listed(name: str, sample: Sample) -> list[str]:
    """What a batch of a source looks like, for the log."""
    return [f"source {name!r} gives batches of {size_text(sample.nbytes)}:", *(f"    {line}" for line in sample.lines)]
