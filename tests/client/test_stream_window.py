"""What is asked of a stream's workers and in which order it comes: any interleaving of what can happen, against a model."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from feeder_client.credits import Credits
from feeder_client.seen import Seen
from feeder_client.stream_window import Part, StreamWindow, Ticket
from feeder_client.window import Request
from feeder_wire.errors import ConfigError

SETTINGS = settings(database=None, max_examples=300, stateful_step_count=50)
MANY = 1 << 40


def tickets_of(requests: list[Request]) -> list[Ticket]:
    return [(r.node, i) for r in requests for i in r.indices]


def in_turns(lengths: list[list[int]]) -> list[Ticket]:
    """The batches of a run in their fixed order; `lengths` of each node's parts."""
    longest = max((n for parts in lengths for n in parts), default=0)
    return [
        (node, place * len(parts) + worker)
        for place in range(longest)
        for node, parts in enumerate(lengths)
        for worker, n in enumerate(parts)
        if place < n
    ]


class StreamMachine(RuleBasedStateMachine):
    """Nodes with finite streams of known lengths; each run must give each part's batches exactly once, and no two runs may mix."""

    @initialize(
        lengths=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3), min_size=1, max_size=3),
        prefetch=st.none() | st.integers(1, 5),
        ordered=st.booleans(),
    )
    def begin(self, lengths: list[list[int]], prefetch: int | None, ordered: bool) -> None:
        self.lengths, self.ordered, self.prefetch = lengths, ordered, prefetch
        self.runs = 0
        self.got: list[Ticket] = []  # handed out in this run
        self.untaken = 0
        self.asked: set[Ticket] = set()
        self.here: set[int] = set()
        self.parted = False  # a node was given up in this run, so that the run may have ended without it
        self.window = self.made(prefetch)

    def made(self, prefetch: int | None) -> StreamWindow:
        return StreamWindow(Credits(MANY, prefetch), self.ordered, len(self.lengths))

    @precondition(lambda self: len(self.here) < len(self.lengths))
    @rule(data=st.data())
    def join(self, data: st.DataObject) -> None:
        self.come(data.draw(st.sampled_from([n for n in range(len(self.lengths)) if n not in self.here])))
        self.after()  # a run of which only a node that was away could tell that it is over

    def come(self, node: int) -> None:
        assert self.window.node_opened(node, len(self.lengths[node]))
        self.here.add(node)

    def after(self) -> None:
        """What has become ready is handed out; the run may be over."""
        found = self.window.ready()
        self.got += found
        self.untaken += len(found)
        assert len(set(self.got)) == len(self.got), "handed out twice"
        every = in_turns(self.lengths)
        assert set(self.got) <= set(every)
        if self.ordered:
            assert self.got == every[: len(self.got)], "out of order"
        if self.window.end_run():
            assert not self.asked, "the next run began before all of this one was answered"
            if self.ordered or not self.parted:
                assert sorted(self.got) == sorted(every), "a batch of this run is missing"
            self.runs += 1
            self.got, self.parted = [], bool(self.window._gone)
            assert self.window.run == self.runs

    @rule()
    def fill(self) -> None:
        asked = tickets_of(self.window.fill())
        for ticket in asked:
            assert ticket not in self.asked and ticket not in self.got, "asked for twice"
            assert ticket[0] in self.here
        self.asked |= set(asked)
        assert self.window.fill() == [], "it could have been asked for at once"

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """Somebody has lost patience with a node that is away."""
        away = [n for n in range(len(self.lengths)) if n not in self.here]
        nodes = data.draw(st.lists(st.sampled_from(away), max_size=3)) if away else []
        assert set(self.window.give_up(nodes)) <= (set() if self.ordered else set(nodes))
        self.parted = self.parted or bool(nodes)
        self.after()

    def answer_one(self, ticket: Ticket) -> None:
        node, index = ticket
        self.asked.remove(ticket)
        place, worker = divmod(index, len(self.lengths[node]))
        if place < self.lengths[node][worker]:
            assert self.window.arrived(node, self.runs, index, 10, 0.01)
            assert not self.window.arrived(node, self.runs, index, 10, 0.01)
        else:
            self.window.ended(node, self.runs, index)
        self.after()

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        self.answer_one(data.draw(st.sampled_from(sorted(self.asked))))

    @precondition(lambda self: self.untaken)
    @rule()
    def take(self) -> None:
        self.window.taken()
        self.untaken -= 1

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.here)))
        owed = {ticket for ticket in self.asked if ticket[0] == node}
        assert self.window.node_lost(node) == len(owed)
        for _, index in owed:
            assert not self.window.arrived(node, self.runs, index, 10, 0.01)
        self.asked -= owed
        self.here.remove(node)
        self.after()

    @precondition(lambda self: len(self.window.parts) == len(self.lengths))
    @rule(anew=st.booleans())
    def resume(self, anew: bool) -> None:
        """The position is saved, and taken up again; `anew`: by another process."""
        saved = {
            number: [
                Part(part.given.run, end=part.end, given=part.given.copy()) if not part.given.rest else resumed(part)
                for part in parts
            ]
            for number, parts in self.window.parts.items()
        }  # fmt: skip
        if anew:
            self.window = self.made(self.prefetch)
            self.window.begin(self.runs, saved)
            self.untaken = 0
            for node in self.here:
                self.come(node)
        else:
            self.window.begin(self.runs, saved)
        self.asked.clear()
        self.after()

    @invariant()
    def the_books_agree(self) -> None:
        if hasattr(self, "window"):
            assert self.window.owed == len(self.asked)
            assert self.window.stored >= self.untaken
            for parts in self.window.parts.values():
                for part in parts:
                    assert part.owed >= 0 and len(set(part.again)) == len(part.again)
            assert self.window.missing() == ([n for n in range(len(self.lengths)) if n not in self.here] if self.ordered else [])

    def teardown(self) -> None:
        """As long as the nodes answer, runs end."""
        if not hasattr(self, "window"):
            return
        for node in set(range(len(self.lengths))) - self.here:
            self.come(node)
        self.after()
        target = self.runs + 2
        rng = random.Random(0)
        for _ in range(2000):
            if self.runs >= target:
                return
            while self.untaken:
                self.take()
            self.fill()
            self.answer_one(rng.choice(sorted(self.asked)))
        pytest.fail("the run does not end")


def resumed(part: Part) -> Part:
    last = part.given.rest[-1]
    holes = [place for place in range(part.given.run, last) if place not in part.given]
    made = Part(last + 1, end=part.end, given=part.given.copy())
    made.again.extend(holes)
    return made


def test_streams_in_any_interleaving() -> None:
    run_state_machine_as_test(StreamMachine, settings=SETTINGS)


def test_a_stream_whose_only_other_node_is_given_up_ends_without_it() -> None:
    window = StreamWindow(Credits(MANY, prefetch=2), expected=2)
    window.node_opened(0, 1)
    window.node_opened(1, 1)
    assert tickets_of(window.fill()) == [(0, 0), (1, 0)]
    window.ended(0, 0, 0)
    assert not window.end_run()
    assert window.node_lost(1) == 1
    assert not window.end_run(), "it may be back in a moment"
    assert window.give_up([1]) == [1]
    assert window.give_up([1]) == []
    assert window.end_run()
    assert window.run == 1
    assert not window.end_run(), "nothing has been said about the next run"
    assert window.fill() == [Request(0, 1, (0, 1))]


def test_what_is_ordered_waits_for_the_node_that_is_away() -> None:
    window = StreamWindow(Credits(MANY), ordered=True, expected=2)
    window.node_opened(1, 1)
    assert window.fill() == [], "the first node has not come yet"
    window.node_opened(0, 1)
    asked = tickets_of(window.fill())
    assert asked[:4] == [(0, 0), (0, 1), (0, 2), (1, 0)] or {node for node, _ in asked} == {0, 1}
    window.node_lost(0)
    assert window.missing() == [0]
    window.arrived(1, 0, 0, 1, 0.1)
    assert window.ready() == []
    window.node_opened(0, 1)
    window.arrived(0, 0, 0, 1, 0.1) if window.fill() else None
    assert window.ready() == [(0, 0), (1, 0)]


def test_nothing_is_asked_of_a_part_that_is_over() -> None:
    window = StreamWindow(Credits(MANY))
    window.node_opened(0, 2)
    for node, index in tickets_of(window.fill()):
        if index % 2 == 0:
            window.ended(node, 0, index)
        else:
            window.arrived(node, 0, index, 1, 0.1)
    for _ in window.ready():
        window.taken()
    assert {index % 2 for _, index in tickets_of(window.fill())} == {1}


def test_a_stream_keeps_to_the_memory() -> None:
    window = StreamWindow(Credits(1000))
    window.node_opened(0, 8)
    node, index = tickets_of(window.fill())[0]
    window.arrived(node, 0, index, 600, 0.1)
    window.ready()
    assert window.fill() == []


def test_a_position_of_other_workers_is_refused() -> None:
    window = StreamWindow(Credits(MANY))
    window.begin(3, {0: [Part(), Part()]})
    with pytest.raises(ConfigError, match="saved with 2 workers"):
        window.node_opened(0, 3)


def test_a_part_that_comes_back_with_other_workers_begins_anew() -> None:
    window = StreamWindow(Credits(MANY))
    assert window.node_opened(0, 2)
    window.node_lost(0)
    assert not window.node_opened(0, 3)
    assert len(window.parts[0]) == 3


def test_a_long_way_into_a_run_is_found_at_once() -> None:
    far = 10**12
    window = StreamWindow(Credits(MANY, prefetch=3), ordered=True)
    window.begin(0, {0: [Part(far, given=Seen(0, far)), Part(far + 1, given=Seen(0, far + 1))]})
    window.node_opened(0, 2)
    asked = tickets_of(window.fill())
    assert asked == [(0, 2 * far), (0, 2 * far + 2), (0, 2 * far + 3)]
    for node, index in reversed(asked):
        window.arrived(node, 0, index, 1, 0.1)
    assert window.ready() == asked
