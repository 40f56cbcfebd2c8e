"""The description of a batch that a worker sends to its node, see regrets.py. Without NumPy: the node starts without it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

MOST_LINES = 20


@dataclass(frozen=True, slots=True)
class Sample:
    """A batch in words.

    Attributes:
        lines: one per leaf: path, dtype, shape and size; at most `MOST_LINES` and one that counts the rest.
        nbytes: of the whole batch as it is sent.
        warnings: what it costs more than it has to, and the cure.
    """

    lines: tuple[str, ...]
    nbytes: int
    warnings: tuple[str, ...]


def to_text(sample: Sample) -> str:
    """As JSON, for a message."""
    return json.dumps(asdict(sample))


def from_text(text: str) -> Sample:
    """Read what `to_text` wrote.

    Raises:
        ValueError: it is something else.
    """
    found = json.loads(text)
    if not isinstance(found, dict) or found.keys() != {"lines", "nbytes", "warnings"} or type(found["nbytes"]) is not int:
        raise ValueError("not the description of a batch")
    for name in ("lines", "warnings"):
        if not isinstance(found[name], list) or not all(isinstance(line, str) for line in found[name]):
            raise ValueError("not the description of a batch")
    return Sample(tuple(found["lines"]), found["nbytes"], tuple(found["warnings"]))


def listed(name: str, sample: Sample) -> list[str]:
    """What a batch of a source looks like, for the log."""
    return [f"source {name!r} gives batches of {sample.nbytes / 1e6:.3g} MB:", *(f"    {line}" for line in sample.lines)]
