"""Which nodes a client uses together."""

from __future__ import annotations

from typing import Any

import pytest

from feeder_client.agreement import WAIT, Agreement
from feeder_wire import messages as m
from feeder_wire.errors import DivergentSource

ID = b"s" * 16
ZERO = (("batch[0]", b"pixels", True), ("batch[1]", b"labels", True))


def opened(**changes: Any) -> m.Opened:
    return m.Opened(**{"session": ID, "kind": "indexed", "num_batches": 9, "workers": 2, "seed": 0, "notes": (), "code": b"v1", **changes})


def verdict(leaves: Any = ZERO, known: bool = True) -> m.Verdict:
    return m.Verdict(ID, "", "", False, known, leaves)


def two(**changes: Any) -> Agreement:
    made = Agreement("train")
    made.opened(0, opened())
    made.opened(1, opened(**changes))
    return made


def test_the_first_is_used_at_once_and_the_second_when_it_has_shown_the_same() -> None:
    nodes = two(workers=7)
    assert nodes.objection(0) is None and nodes.objection(1) is WAIT
    nodes.shown(1, verdict())
    assert nodes.objection(1) is WAIT
    nodes.shown(0, verdict((), known=False))
    assert nodes.objection(1) is WAIT
    nodes.shown(0, verdict())
    assert nodes.objection(1) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_batches": 8}, "batches: 8 there, 9 on the first one"),
        ({"seed": 1}, "--seed: 1 there, 0 on"),
        ({"kind": "stream"}, "kind of source: stream there"),
        ({"code": b"v2"}, "another version"),
    ],
)
def test_a_node_that_disagrees_at_once(changes: dict[str, Any], words: str) -> None:
    error = two(**changes).objection(1)
    assert isinstance(error, DivergentSource) and words in str(error) and "'train'" in str(error)


def test_other_data() -> None:
    nodes = two()
    nodes.shown(0, verdict())
    nodes.shown(1, verdict((("batch[0]", b"other", True), ("batch[1]", b"else", True))))
    error = nodes.objection(1)
    assert isinstance(error, DivergentSource) and "batch[0], batch[1]" in str(error)


def test_other_augmentation_and_unknown_code_are_no_reason() -> None:
    nodes = two(code=b"")
    nodes.shown(0, verdict())
    nodes.shown(1, verdict((("batch[0]", b"other", True), ZERO[1])))
    assert nodes.objection(1) is None


def test_a_first_node_that_is_gone_before_it_has_shown_anything() -> None:
    nodes = two()
    nodes.lost(0)
    nodes.shown(1, verdict())
    assert nodes.objection(1) is None
    nodes.opened(0, opened(num_batches=8))
    assert isinstance(nodes.objection(0), DivergentSource), "it sets no standard any more"


def test_one_that_cannot_be_compared_by_its_data() -> None:
    nodes = two(kind="indexed")
    nodes.shown(0, verdict(()))
    nodes.shown(1, verdict())
    assert nodes.objection(1) is None
