"""Are two batches the same, leaf by leaf? Compared are digests, so that workers and nodes can be compared without their batches.

Copies of a source that order their data alike, but augment it with numbers that nobody can set, agree in the labels and differ in the
images. So what counts is whether a leaf that *carries information* agrees: 64 bits or more, and not all the same value. Two copies with
different data agree in a leaf of zeros as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Leaf: TypeAlias = "tuple[str, bytes, bool]"
"""(path, for example ``batch[1]``; digest of dtype, shape and bytes; does it carry information)."""

MOST_LEAVES = 256
DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Comparison:
    """What comparing two batches showed.

    Attributes:
        equal: every leaf is.
        alike: they are about the same samples: all is equal, or at least a leaf that carries information is.
        differing: paths of the leaves that differ; one of the structure itself is ``batch``.
    """

    equal: bool
    alike: bool
    differing: tuple[str, ...]


def compare(ours: Sequence[Leaf], theirs: Sequence[Leaf]) -> Comparison:
    """Compare two batches by the digests of their leaves."""
    if [leaf[0] for leaf in ours] != [leaf[0] for leaf in theirs]:
        return Comparison(False, False, ("batch",))
    pairs = list(zip(ours, theirs, strict=True))
    differing = tuple(a[0] for a, b in pairs if a[1] != b[1])
    informed = any(a[1] == b[1] and a[2] and b[2] for a, b in pairs)
    return Comparison(not differing, not differing or informed, differing)


def listed(paths: Sequence[str], most: int = 4) -> str:
    """A few paths for a sentence."""
    shown = ", ".join(paths[:most])
    return f"{shown} and {len(paths) - most} more" if len(paths) > most else shown
