"""What comparing copies concludes, for sources as they are written: simulated copies make items, and the steps are done in any order."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_server import probe as p
from feeder_wire.leaves import Leaf, compare

Make = Callable[[list[int], int, int], tuple[Leaf, ...]]  # (items made before by this copy, slot, item)


def leaf(path: str, *content: object) -> Leaf:
    return (path, repr(content).encode()[-16:], True)


SOURCES: dict[str, tuple[Make, str]] = {
    "exact": (lambda before, slot, i: (leaf("x", i), leaf("y", i)), p.PARALLEL),
    "augmented": (lambda before, slot, i: (leaf("x", i, slot), leaf("y", i)), p.NOT_REPRODUCIBLE),
    "drawn lazily": (lambda before, slot, i: (leaf("x", i, (*before, i)[0]),), p.WARMED),
    "drawn lazily, augmented": (lambda before, slot, i: (leaf("x", i, slot), leaf("y", i, (*before, i)[0])), p.WARMED),
    "cursor": (lambda before, slot, i: (leaf("x", len(before)),), p.SINGLE),
    "another order in each": (lambda before, slot, i: (leaf("x", i, slot),), p.SINGLE),
    "drawn lazily, with noise": (lambda before, slot, i: (leaf("noise", i), leaf("y", i, (*before, i)[0])), p.WARMED),
    "zeros": (lambda before, slot, i: (("x", b"0", False),), p.PARALLEL),
}


class Crew:
    """Workers that do what the probe says, one step of a random one at a time."""

    def __init__(self, name: str, slots: int, length: int | None, policy: str = p.SINGLE) -> None:
        self.probe = p.Probe("s", range(slots), policy)
        self.make = SOURCES[name][0]
        self.length = length
        self.made: dict[int, list[int]] = defaultdict(list)
        self.todo: dict[int, deque[p.Step]] = defaultdict(deque)
        self.serving: set[int] = set()
        self.warm: dict[int, bool] = {}

    def take(self, steps: list[p.Step]) -> None:
        for step in steps:
            if isinstance(step, p.Admit):
                assert step.slot not in self.serving, "admitted twice"
                self.serving.add(step.slot)
            elif isinstance(step, (p.Reject, p.Rebuild)):
                self.serving.discard(step.slot)
            if isinstance(step, (p.Warm, p.Rebuild)):
                self.warm[step.slot] = isinstance(step, p.Rebuild) or step.on
            if isinstance(step, p.Rebuild):
                self.made[step.slot] = []
                self.todo[step.slot].clear()
            if isinstance(step, p.Try):
                assert self.length is None or 0 <= step.index < self.length
                self.todo[step.slot].append(step)

    def load(self, slot: int) -> None:
        self.made[slot] = []
        self.warm[slot] = False
        self.take(self.probe.loaded(slot, stream=False, length=self.length))

    def work(self, slot: int) -> None:
        step = self.todo[slot].popleft()
        assert isinstance(step, p.Try)
        leaves = self.make(self.made[slot], slot, step.index)
        self.made[slot].append(step.index)
        if step.look:
            self.take(self.probe.looked(slot, step.index, leaves, ("cursor",)))

    def busy(self) -> list[int]:
        return [slot for slot, steps in self.todo.items() if steps]

    def restart(self, slot: int) -> None:
        self.todo[slot].clear()
        self.serving.discard(slot)
        self.take(self.probe.lost(slot, trying=False))
        self.load(slot)


@pytest.mark.parametrize("name", SOURCES)
@given(data=st.data(), slots=st.integers(2, 5), length=st.sampled_from([3, 4, 5, 100, 2**63 - 1, None]))
def test_the_outcome_whatever_the_order(name: str, data: st.DataObject, slots: int, length: int | None) -> None:
    crew = Crew(name, slots, length)
    absent = list(data.draw(st.permutations(range(slots))))
    first = absent[0]
    while absent or crew.busy():
        if absent and (not crew.busy() or data.draw(st.booleans())):
            crew.load(absent.pop(0))
        else:
            crew.work(data.draw(st.sampled_from(crew.busy())))
        assert first in crew.serving, "the owner serves from the first moment on"
    assert crew.probe.outcome in (SOURCES[name][1], p.NOT_REPRODUCIBLE if "augmented" in name else SOURCES[name][1])
    assert crew.probe.warm == ("lazily" in name)
    alone = SOURCES[name][1] == p.SINGLE
    assert crew.serving == ({first} if alone else set(range(slots)))
    assert crew.probe.leaves is not None and crew.probe.identified
    assert crew.probe.costs == (alone or "augmented" in name)
    outcome = crew.probe.outcome
    for slot in data.draw(st.lists(st.sampled_from(range(slots)), max_size=3)):
        crew.restart(slot)
        while crew.busy():
            crew.work(crew.busy()[0])
    assert {slot for slot in crew.serving if crew.warm[slot]} == (crew.serving if "lazily" in name else set())
    assert crew.probe.outcome == outcome and crew.serving == ({first} if alone else set(range(slots)))


@pytest.mark.parametrize(("policy", "outcome", "serving"), [(p.SINGLE, p.SINGLE, {0}), (p.PARALLEL, p.DIVERGENT, {0, 1, 2})])
def test_the_policy(policy: str, outcome: str, serving: set[int]) -> None:
    crew = Crew("cursor", 3, 10, policy)
    for slot in range(3):
        crew.load(slot)
    while crew.busy():
        crew.work(crew.busy()[0])
    assert crew.probe.outcome == outcome and crew.serving == serving
    assert "self.cursor" in crew.probe.text and "feeder_server.rng()" in crew.probe.text


def test_a_source_of_one_batch_and_of_none() -> None:
    crew = Crew("cursor", 2, 1)
    crew.load(0)
    crew.load(1)
    while crew.busy():
        crew.work(crew.busy()[0])
    assert crew.probe.outcome == p.SINGLE
    empty = Crew("exact", 2, 0)
    empty.load(0)
    assert empty.serving == {0} and not empty.busy() and empty.probe.identified


def test_one_worker_makes_one_batch_to_be_looked_at() -> None:
    crew = Crew("cursor", 1, 10)
    crew.load(0)
    assert list(crew.todo[0]) == [p.Try(0, 0, True)]
    crew.work(0)
    assert crew.probe.outcome == p.ALONE and not crew.probe.costs


def test_a_replacement_is_compared_with_what_the_owner_made() -> None:
    crew = Crew("exact", 2, 10)
    crew.load(0)
    crew.load(1)
    while crew.busy():
        crew.work(crew.busy()[0])
    for gone in (1, 0):
        crew.take(crew.probe.lost(gone, trying=False))
        crew.serving.discard(gone)
        crew.load(gone)
        while crew.busy():
            crew.work(crew.busy()[0])
        assert crew.serving == {0, 1}
    assert crew.probe.outcome == p.PARALLEL


@pytest.mark.parametrize("event", ["dies", "raises"])
def test_what_cannot_be_compared_is_served_and_said(event: str) -> None:
    crew = Crew("exact", 2, 10)
    crew.load(0)
    crew.load(1)
    crew.take(crew.probe.lost(0, trying=True) if event == "dies" else crew.probe.failed(0, "ValueError: bad"))
    assert crew.probe.outcome == p.UNVERIFIED and crew.probe.identified
    assert 1 in crew.serving


def test_streams_are_not_compared() -> None:
    probe = p.Probe("s", range(3))
    assert probe.loaded(1, stream=True, length=None) == [p.Admit(1)]
    assert probe.outcome == p.STREAM and probe.identified and not probe.costs


def test_batches_of_another_structure_differ() -> None:
    assert compare((leaf("a", 1),), (leaf("a", 1), leaf("b", 1))).alike is False
    assert compare((), ()).equal


@pytest.mark.parametrize("name", SOURCES)
@given(data=st.data(), length=st.sampled_from([3, 4, 5, 100, None]))
def test_workers_that_are_added_one_after_the_other(name: str, data: st.DataObject, length: int | None) -> None:
    """Two are enough to know it; those that come later are compared as well."""
    crew, up = Crew(name, 6, length), 0
    for count in (1, *sorted(data.draw(st.sets(st.integers(2, 6), min_size=1)))):
        crew.probe.expect(count)
        for slot in range(up, count):
            crew.load(slot)
            if data.draw(st.booleans()) and crew.busy():
                crew.work(crew.busy()[0])
        up = count
        while crew.busy():
            crew.work(data.draw(st.sampled_from(crew.busy())))
        if count == 1:
            assert crew.probe.outcome == "", "there was nothing to compare it with yet"
        else:
            assert crew.probe.outcome in (SOURCES[name][1], p.NOT_REPRODUCIBLE if "augmented" in name else SOURCES[name][1])
        alone = count > 1 and SOURCES[name][1] == p.SINGLE
        assert crew.serving == ({0} if alone else set(range(count)))
