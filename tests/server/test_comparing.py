"""Comparing copies inside the dispatcher: whatever they turn out to be, every item that is asked for comes, once, and blocks go back."""

from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeder_server.dispatch import Dispatch
from feeder_server.sample import Sample, to_text
from feeder_server.trials import HELD
from feeder_server.work import Action, Assign, Send, Tell, slots_of
from feeder_wire import messages as m
from feeder_wire import worker_messages as w
from tests.server.test_probe import SOURCES

SESSION, CLIENT = b"s" * 16, b"c" * 16
MANY = 1 << 40


class House:
    """A dispatcher and workers that do one task at a time; each batch has a block of its own."""

    def __init__(self, kind: str, slots: int, length: int) -> None:
        self.d = Dispatch(slots_of(["0"], slots, False), slots, MANY)
        self.make, self.length = SOURCES[kind][0], length
        self.made: dict[int, dict[bytes, list[int]]] = {}
        self.tasks: dict[int, deque[w.Task]] = {slot: deque() for slot in range(slots)}
        self.blocks = 0
        self.out: set[str] = set()  # blocks that their workers don't have
        self.got: Counter[tuple[int, int]] = Counter()
        self.verdicts: list[m.Verdict] = []

    def act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Assign):
                self.tasks[action.slot].append(action.task)
            elif isinstance(action, Tell) and isinstance(action.message, w.Free):
                self.out -= set(action.message.blocks)
            elif isinstance(action, Tell) and isinstance(action.message, w.Mode) and action.message.rebuild:
                self.made[action.slot].clear()
            elif isinstance(action, Send) and isinstance(action.message, m.Lent):
                self.got[action.message.epoch, action.message.index] += 1
                self.act(self.d.release(CLIENT, m.Release((action.message.block,))))
            elif isinstance(action, Send) and isinstance(action.message, m.Verdict):
                self.verdicts.append(action.message)

    def load(self, slot: int) -> None:
        self.made[slot] = {}
        self.act(self.d.joined(slot, 0) + self.d.loaded(slot, w.Loaded(0, "indexed", self.length, False)))

    def work(self, slot: int) -> None:
        task = self.tasks[slot].popleft()
        before = self.made[slot].setdefault(b"", [])
        if task.look:
            leaves = self.make(before, slot, task.index)
            self.act(self.d.looked(slot, w.Looked(task.task, leaves, to_text(Sample(("x",), 1, ())), ())))
        before.append(task.index)
        self.blocks += 1
        name = f"0-{slot}-0-{self.blocks}"
        self.out.add(name)
        self.act(self.d.made(slot, w.MadeBlock(task.task, b"", name, 100, 100, 1.0)))

    def busy(self) -> list[int]:
        return [slot for slot, tasks in self.tasks.items() if tasks]


@pytest.mark.parametrize("kind", SOURCES)
@given(data=st.data(), slots=st.integers(1, 4), length=st.integers(1, 7), early=st.booleans())
def test_every_item_comes_once(kind: str, data: st.DataObject, slots: int, length: int, early: bool) -> None:
    house = House(kind, slots, length)
    absent = list(data.draw(st.permutations(range(slots))))
    wanted = [(epoch, i) for epoch in (0, 1) for i in data.draw(st.permutations(range(length)))]
    opened = False
    while absent or wanted or house.busy() or not opened:
        choices = ["open"] * (not opened and (early or not absent)) + ["load"] * bool(absent) + ["ask"] * (opened and bool(wanted))
        choice = data.draw(st.sampled_from([*choices, *(["work"] * bool(house.busy()))]))
        if choice == "open":
            opened = True
            house.act(house.d.open(CLIENT, m.Open(SESSION, "0", True)))
        elif choice == "load":
            house.load(absent.pop(0))
        elif choice == "ask":
            epoch, index = wanted.pop(0)
            house.act(house.d.ask(CLIENT, m.Ask(SESSION, epoch, (index,))))
        else:
            house.work(data.draw(st.sampled_from(house.busy())))
        house.act(house.d.assign())
    assert house.got == Counter({(epoch, i): 1 for epoch in (0, 1) for i in range(length)})
    assert not house.d.trials.reserved[0] and not house.d.waiting()
    # What nobody asked for is still there to be served; nothing else is.
    assert house.out == set(house.d.ledger.held_by(HELD))
    assert house.verdicts[-1].known and house.d.sources[0].sample is not None


@settings(deadline=None)
@given(data=st.data(), slots=st.integers(2, 4), length=st.integers(2, 7))
def test_what_depends_on_what_was_made_before_is_made_in_the_order_of_the_asking(data: st.DataObject, slots: int, length: int) -> None:
    """Also while it isn't known yet: an item that another worker makes for the comparison isn't passed over until that one is ruled out."""
    house = House("cursor", slots, length)
    absent = list(data.draw(st.permutations(range(slots))))
    owner = absent[0]
    house.load(absent.pop(0))
    wanted = [(epoch, i) for epoch in (0, 1) for i in range(length)]
    house.act(house.d.open(CLIENT, m.Open(SESSION, "0", True)))
    while absent or wanted or house.busy():
        choices = ["load"] * bool(absent) + ["ask"] * bool(wanted) + ["work"] * bool(house.busy())
        choice = data.draw(st.sampled_from(choices))
        if choice == "load":
            house.load(absent.pop(0))
        elif choice == "ask":
            epoch, index = wanted.pop(0)
            house.act(house.d.ask(CLIENT, m.Ask(SESSION, epoch, (index,))))
        else:
            house.work(data.draw(st.sampled_from(house.busy())))
        house.act(house.d.assign())
    assert house.d.sources[0].outcome == "single"
    assert house.made[owner][b""] == list(range(length)) * 2
    assert house.out == set(house.d.ledger.held_by(HELD))


def test_what_was_made_for_the_comparison_is_served() -> None:
    house = House("exact", 3, 20)
    for slot in range(3):
        house.load(slot)
    while house.busy():
        house.work(house.busy()[0])
    made = house.blocks
    house.act(house.d.open(CLIENT, m.Open(SESSION, "0", True)) + house.d.ask(CLIENT, m.Ask(SESSION, 0, tuple(range(5)))))
    house.act(house.d.assign())
    # Items 0 and 1 of the owner, and one of each other worker: 2 + 2 of the six that were made. Only 2 of 5 remain to be made at most.
    assert made == 6 and sum(house.got.values()) == 4
    assert len(house.d.ledger.held_by(HELD)) == 0


def test_what_one_worker_has_ready_is_not_made_again_by_another() -> None:
    """One that has just been admitted leaves to the others what waits for their admission; nor does the owner come to it before."""
    house = House("exact", 4, 20)
    for slot in range(4):
        house.load(slot)
    house.act(house.d.open(CLIENT, m.Open(SESSION, "0", True)) + house.d.ask(CLIENT, m.Ask(SESSION, 0, tuple(range(10)))))
    while sum(house.got.values()) < 10:
        for slot in house.busy():  # each as quick as the others, and the first ones always a moment before the last
            house.work(slot)
            house.act(house.d.assign())
    made = Counter(index for items in house.made.values() for index in items[b""])
    assert made == {**dict.fromkeys(range(10), 1), 0: 4}
