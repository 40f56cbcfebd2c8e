"""What is asked of which node: any interleaving of what can happen to a window, against a model of it; and simulated clusters."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from feeder_client.credits import AHEAD_SECONDS, MAX_DEPTH, WIDEST, Credits, Key, Node
from feeder_client.order import Order
from feeder_client.window import Request, Window, gather
from tests.system.varying import size_of

SETTINGS = settings(deadline=None, database=None, max_examples=300, stateful_step_count=50)
MANY = 1 << 40


def keys_of(requests: list[Request]) -> list[tuple[int, Key]]:
    return [(r.node, (r.epoch, i)) for r in requests for i in r.indices]


def plan(n: int) -> Iterator[Key]:
    return ((e, i) for e in itertools.count() for i in range(n))


def opened(window: Window, **workers: int) -> Window:
    for name, count in workers.items():
        window.node_opened(int(name[1:]), count)
    return window


# ------------------------------------------------------------------------------------------------------------- a model


class WindowMachine(RuleBasedStateMachine):
    """A trainer that asks as Keras might, nodes that answer, fail and come back, and what must hold all the while."""

    @initialize(
        n=st.integers(1, 8),
        lookahead=st.booleans(),
        prefetch=st.none() | st.integers(1, 6),
        memory=st.sampled_from([1, 500, 2000, MANY]),
        seed=st.integers(0, 1 << 64),
    )
    def begin(self, n: int, lookahead: bool, prefetch: int | None, memory: int, seed: int) -> None:
        self.n, self.lookahead, self.memory = n, lookahead, memory
        self.order = Order(n, seed)
        self.credits = Credits(memory, prefetch)
        self.window = Window(self.credits, lookahead)
        self.version = -1
        self.owed: dict[Key, int] = {}
        self.second: dict[Key, int] = {}  # who owes it too, for the first one is late
        self.hedged: set[Key] = set()  # not asked of the second yet
        self.leaving: set[int] = set()
        self.stored: set[Key] = set()
        self.again: set[Key] = set()
        self.late: list[tuple[Key, int]] = []  # answers that nobody waits for any more
        self.waiting: Key | None = None
        self.urgent = False
        self.in_sequence = 0
        self.follow()

    def follow(self) -> None:
        if self.order.version != self.version:
            self.version = self.order.version
            self.window.replan(self.order.upcoming(), self.order.epoch)
            self.late += [(k, node) for k, node in self.owed.items() if k[0] < self.order.epoch]
            self.owed = {k: node for k, node in self.owed.items() if k[0] >= self.order.epoch}
            self.second = {k: node for k, node in self.second.items() if k in self.owed}
            self.stored = {k for k in self.stored if k[0] >= self.order.epoch}
            self.again = {k for k in self.again if k[0] >= self.order.epoch}

    # ---------------------------------------------------------------------------------------------------- the trainer

    @precondition(lambda self: self.waiting is None)
    @rule(index=st.integers(0, 7), next_one=st.booleans())
    def ask(self, index: int, next_one: bool) -> None:
        if next_one:
            index, self.in_sequence = self.in_sequence, (self.in_sequence + 1) % self.n
        self.waiting = self.order.ask(index % self.n)
        self.follow()

    @rule()
    def begin_pass(self) -> None:
        self.order.begin_pass()
        self.in_sequence = 0

    @rule()
    def end_pass(self) -> None:
        self.order.end_pass()

    @precondition(lambda self: self.waiting is not None and self.waiting not in self.stored)
    @rule()
    def need(self) -> None:
        self.window.need(self.waiting)
        self.urgent = True

    @precondition(lambda self: self.waiting in self.stored)
    @rule()
    def take(self) -> None:
        self.window.taken(self.waiting)
        self.stored.discard(self.waiting)
        self.waiting, self.urgent = None, False

    # ------------------------------------------------------------------------------------------------------ the nodes

    @rule()
    def fill(self) -> None:
        before = dict(self.owed)
        forced = self.waiting if self.urgent and self.waiting not in self.owed and self.waiting not in self.stored else None
        asked = keys_of(self.window.fill(self.order.epoch))
        again = sorted((node, key) for node, key in asked if key in self.second)
        assert again == sorted((self.second[key], key) for key in self.hedged & set(self.second)), "a second one is asked at once, and once"
        self.hedged.clear()
        asked = [(node, key) for node, key in asked if key not in self.second]
        for node, key in asked:
            assert node in self.credits.nodes, "asked of a node that is not there"
            assert node not in self.leaving, "asked of a node that is being stopped"
            assert key not in self.owed, "asked for twice"
            assert key not in self.stored, "asked for, and it is there"
            given = key[0] == self.order.epoch and key[1] in self.order._all.given
            assert not given or key == self.waiting or key in self.again, "asked for what the trainer has had"
            assert key[0] <= self.order.epoch + self.lookahead
            self.owed[key] = node
        ahead = [key for _, key in asked if key != forced]
        if ahead:
            assert len(self.owed) + len(self.stored) <= self.credits.limit() + (forced in self.owed)
            assert set(ahead) <= self.again or self.again <= set(self.owed), "new ones were asked for before lost ones"
            for node in (self.credits.nodes[number] for number, key in asked if key != forced):
                assert len(node.owed) <= self.credits.share(node) + (forced in node.owed), "more than its share"
            if self.credits.batch_bytes and len(ahead) > 1:
                assert (len(self.owed) + len(self.stored) - 1) * self.credits.batch_bytes <= self.memory
        self.again -= set(self.owed)
        serving = set(self.credits.nodes) - self.leaving
        if forced is not None and serving:
            assert forced in self.owed, "the trainer waits for it"
        if serving and not self.owed and not self.stored and self.order.num_batches:
            # Nothing on its way and nothing asked: only at the end of an epoch beyond which it may not look.
            assert not self.lookahead
            assert self.order.complete or (self.waiting is not None and self.order.position >= self.n)
        self.urgent = False
        assert before.items() <= self.owed.items()
        had = {k for k in self.stored if k[0] == self.order.epoch and k[1] in self.order._all.given and k != self.waiting}
        assert not had, "the trainer has had it, and it takes up room"

    @precondition(lambda self: self.owed)
    @rule(data=st.data(), nbytes=st.sampled_from([0, 10, 100, 1000]), seconds=st.sampled_from([0.0, 0.0005, 0.01, 1.0]))
    def answer(self, data: st.DataObject, nbytes: int, seconds: float) -> None:
        key = data.draw(st.sampled_from(sorted(self.owed)))
        node = self.owed.pop(key)
        second = self.second.pop(key, None)
        assert self.window.owner(key) == node
        first = node if second is None or not data.draw(st.booleans(), "the second is first") else second
        assert self.window.arrived(key, first, nbytes, seconds)
        self.stored.add(key)
        self.late.append((key, node))
        if second is not None:
            self.late.append((key, second))
            loser = second if first == node else node
            assert key in self.credits.nodes[loser].late, "it is at it all the same"

    @precondition(lambda self: self.owed)
    @rule(data=st.data())
    def hedge(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.owed)))
        owner, before = self.owed[key], {number: set(node.owed) for number, node in self.credits.nodes.items()}
        used = {n: len(node.owed) + len(node.late) for n, node in self.credits.nodes.items()}
        roomy = {n for n, node in self.credits.nodes.items() if used[n] < max(1, self.credits.share(node))} - self.leaving - {owner}
        done = self.window.hedge(key)
        assert done == (key not in self.second and bool(roomy))
        if done:
            (self.second[key],) = [number for number, node in self.credits.nodes.items() if node.owed != before[number]]
            assert self.second[key] in roomy
            self.hedged.add(key)

    @precondition(lambda self: self.credits.nodes if hasattr(self, "credits") else False)
    @rule(data=st.data())
    def hand_back(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.credits.nodes)))
        mine = sorted(self.credits.nodes[number].owed)
        keys = [key for key in mine if data.draw(st.booleans())] + [(9, 9)]
        self.leaving.add(number)
        assert self.window.handed_back(number, keys) == self.forget(number, keys)

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def answer_late(self, data: st.DataObject) -> None:
        key, node = data.draw(st.sampled_from(self.late))
        if key not in self.owed:
            assert not self.window.arrived(key, node, 10, 0.01)
            assert node not in self.credits.nodes or key not in self.credits.nodes[node].late

    @rule(number=st.integers(0, 2), workers=st.integers(0, 3))
    def open_node(self, number: int, workers: int) -> None:
        self.forget(number)
        self.window.node_opened(number, workers)

    @rule(number=st.integers(0, 2))
    def lose_node(self, number: int) -> None:
        lost = self.forget(number)
        assert self.window.node_lost(number) == lost

    def forget(self, number: int, keys: list[Key] | None = None) -> int:
        if keys is None:
            self.leaving.discard(number)
        lost = 0
        for key in [k for k in self.owed if number in (self.owed[k], self.second.get(k)) and (keys is None or k in keys)]:
            self.late.append((key, number))
            second = self.second.pop(key, None)
            if second is None:
                del self.owed[key]
                self.again.add(key)
                lost += 1
            elif second != number:
                self.owed[key] = second
        return lost

    # ------------------------------------------------------------------------------------------------------ always

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "window"):
            return
        assert (self.window.owed, self.window.stored) == (len(self.owed), len(self.stored))
        for number, node in self.credits.nodes.items():
            assert node.owed == {k for k in self.owed if number in (self.owed[k], self.second.get(k))}
            assert not node.owed & node.late
        assert not any(self.owed[k] == node for k, node in self.second.items()), "twice of the same node"

    def teardown(self) -> None:
        """When the nodes answer, the trainer gets every batch that it asks for, two epochs long."""
        if not hasattr(self, "window"):
            return
        self.open_node(0, 1)
        self.order.begin_pass()
        asks = itertools.islice(itertools.cycle(range(self.n)), 2 * self.n + 1)
        for _ in range(20 * self.n + 20):
            if self.waiting is None:
                index = next(asks, None)
                if index is None:
                    return
                self.waiting = self.order.ask(index)
                self.follow()
            if self.waiting in self.stored:
                self.take()
                continue
            self.need()
            self.fill()
            for key, node in list(self.owed.items()):
                assert self.window.arrived(key, node, 10, 0.01)
                self.stored.add(self.owed.pop(key) is not None and key)
                self.second.pop(key, None)
            self.the_books_agree()
        pytest.fail(f"waits for {self.waiting} for ever")


@pytest.mark.timeout(300)
def test_any_interleaving() -> None:
    run_state_machine_as_test(WindowMachine, settings=SETTINGS)


# ------------------------------------------------------------------------------------------------------- single rules


def test_every_key_once_and_in_order_over_the_end_of_epochs() -> None:
    window = opened(Window(Credits(MANY)), n0=2, n1=3)
    window.replan(plan(7), 0)
    delivered = []
    for key in itertools.islice(plan(7), 70):
        for node, asked in keys_of(window.fill(key[0])):
            assert window.arrived(asked, node, 10, 0.01)
            delivered.append(asked)
        window.taken(key)
    assert sorted(delivered)[:70] == list(itertools.islice(plan(7), 70))
    assert len(set(delivered)) == len(delivered)


def test_a_lost_node_s_keys_are_asked_again_first() -> None:
    window = opened(Window(Credits(MANY, prefetch=6)), n0=1, n1=1)
    window.replan(plan(100), 0)
    first = keys_of(window.fill(0))
    lost = [key for node, key in first if node == 0]
    assert window.node_lost(0) == len(lost) > 0
    window.node_opened(2, 10)
    assert [key for _, key in keys_of(window.fill(0))] == lost
    assert window.node_lost(7) == 0


def test_what_was_lost_and_then_needed_is_asked_for_once() -> None:
    window = opened(Window(Credits(1, prefetch=1)), n0=1)
    window.replan(plan(9), 0)
    assert keys_of(window.fill(0)) == [(0, (0, 0))]
    window.node_lost(0)
    window.need((0, 0))
    window.node_opened(1, 1)
    assert keys_of(window.fill(0)) == [(1, (0, 0))]
    assert window.arrived((0, 0), 1, 1, 0.1)
    window.taken((0, 0))
    assert keys_of(window.fill(0)) == [(1, (0, 1))]


def test_what_was_next_and_then_needed_is_asked_for_once() -> None:
    window = Window(Credits(MANY, prefetch=1))
    window.replan(plan(9), 0)
    assert window.fill(0) == []  # nobody to ask: (0, 0) stays next
    window.node_opened(0, 1)
    window.need((0, 0))
    assert keys_of(window.fill(0)) == [(0, (0, 0))]
    window.arrived((0, 0), 0, 1, 0.1)
    window.taken((0, 0))
    assert keys_of(window.fill(0)) == [(0, (0, 1))]


def test_a_full_window_can_t_block_its_own_head() -> None:
    window = opened(Window(Credits(MANY, prefetch=2)), n0=1)
    window.replan(plan(9), 0)
    window.fill(0)
    window.need((0, 7))
    assert keys_of(window.fill(0)) == [(0, (0, 7))]
    window.need((0, 7))
    assert window.fill(0) == []
    for key in ((0, 0), (0, 1), (0, 7)):
        window.arrived(key, 0, 1, 0.1)
        window.taken(key)
    assert window.arrived((0, 7), 0, 1, 0.1) is False


def test_lookahead_false_stops_at_the_end_of_the_epoch() -> None:
    window = opened(Window(Credits(MANY), lookahead=False), n0=8)
    window.replan(plan(3), 0)
    assert [key for _, key in keys_of(window.fill(0))] == [(0, 0), (0, 1), (0, 2)]
    for i in range(3):
        window.arrived((0, i), 0, 1, 1.0)
        window.taken((0, i))
    assert window.fill(0) == []
    assert [key for _, key in keys_of(window.fill(1))] == [(1, 0), (1, 1), (1, 2)]


def test_with_lookahead_it_reaches_one_epoch_further_and_no_more() -> None:
    window = opened(Window(Credits(MANY)), n0=8)
    window.replan(plan(3), 0)
    assert [key for _, key in keys_of(window.fill(0))] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert window.fill(0) == []


def test_a_batch_that_is_kept_is_not_asked_for() -> None:
    window = opened(Window(Credits(MANY, prefetch=2)), n0=1)
    window.replan(plan(5), 0)
    assert [key for _, key in keys_of(window.fill(0, {(0, 0), (0, 2)}.__contains__))] == [(0, 1), (0, 3)]


def test_a_new_plan_gives_up_what_belongs_to_epochs_gone_by() -> None:
    window = opened(Window(Credits(MANY, prefetch=4)), n0=2)
    window.replan(plan(3), 0)
    window.fill(0)
    window.arrived((0, 0), 0, 1, 0.1)
    window.replan(itertools.chain([(1, 2)], plan(3)), 1)
    assert (window.owed, window.stored) == (1, 0)
    assert window.owner((1, 0)) == 0
    assert window.arrived((0, 1), 0, 1, 0.1) is False


def test_requests_are_gathered_by_node_and_epoch() -> None:
    chosen = [(0, (0, 8)), (1, (0, 9)), (0, (1, 0)), (0, (0, 7))]
    assert gather(chosen) == [Request(0, 0, (8, 7)), Request(1, 0, (9,)), Request(0, 1, (0,))]


# ------------------------------------------------------------------------------------------------------------- credits


def test_a_worker_s_depth_follows_the_time_of_a_batch() -> None:
    credits = Credits(MANY)
    for seconds, depth in [(0.0, 2), (1.0, 2), (AHEAD_SECONDS, 3), (AHEAD_SECONDS / 10, 12), (1e-9, MAX_DEPTH), (5e-324, MAX_DEPTH)]:
        assert credits.depth(Node(1, seconds=seconds)) == depth
        assert credits.share(Node(3, seconds=seconds)) == 3 * depth + 1


def test_the_limit_is_the_sum_of_the_shares_within_the_memory() -> None:
    credits = Credits(1000)
    assert credits.limit() == 0
    credits.nodes = {0: Node(2), 1: Node(3)}
    assert credits.limit() == 2 * 2 + 1 + 3 * 2 + 1
    credits.learn(0, 300, 1.0)
    assert credits.limit() == 3
    credits.learn(0, 10**6, 1.0)
    assert credits.limit() == 1, "one batch is always allowed"
    told = Credits(MANY, prefetch=17)
    told.nodes = {0: Node(8)}
    assert told.limit() == 17


def test_much_is_asked_for_only_when_some_have_come() -> None:
    """How large they are isn't known before; small ones come first, for they travel faster."""
    for credits, most in ((Credits(MANY), 4 * MAX_DEPTH + 1), (Credits(MANY, prefetch=1000), 1000)):
        credits.nodes = {0: Node(4, seconds=1e-6)}
        limits = []
        for _ in range(1000):
            limits.append(credits.limit())
            credits.learn(0, 10, 1e-6)
        assert limits[:4] == [9, 11, 13, 15]
        assert limits[-1] == most


@pytest.mark.parametrize("prefetch", [None, 500])
def test_batches_of_all_sizes_stay_within_the_memory(prefetch: int | None) -> None:
    """Some are taken now and then; of those that are made at one time the small ones come first."""
    memory, largest = 8 << 20, 4 << 20
    window = Window(Credits(memory, prefetch))
    window.replan(((0, i) for i in itertools.count()), 0)
    window.node_opened(0, 2)
    owed: list[Key] = []
    stored: list[Key] = []
    most = 0
    for _ in range(2000):
        owed += [(request.epoch, index) for request in window.fill(0) for index in request.indices]
        for key in sorted(owed[:6], key=lambda key: size_of(key[1], largest))[:3]:
            owed.remove(key)
            assert window.arrived(key, 0, size_of(key[1], largest), 1e-4)
            stored.append(key)
        most = max(most, sum(size_of(index, largest) for _, index in stored))
        if stored:
            window.taken(stored.pop(0))
    assert 0 < most <= memory + largest


def test_a_large_batch_is_remembered_for_a_while() -> None:
    credits = Credits(1000)
    credits.nodes = {0: Node(20)}
    credits.learn(0, 500, 1.0)
    for _ in range(100):
        credits.learn(0, 10, 1.0)
    assert credits.batch_bytes > 250
    for _ in range(900):
        credits.learn(0, 10, 1.0)
    assert credits.batch_bytes <= 20
    credits.learn(9, 10, 1.0)  # of a node that is gone
    assert credits.nodes[0].delivered == 1001


def test_the_node_with_the_most_room_is_picked() -> None:
    credits = Credits(MANY)
    assert credits.pick(forced=True) is None
    credits.nodes = {0: Node(1, owed={(0, 0), (0, 1)}), 1: Node(4, owed={(0, 2), (0, 3), (0, 4)})}
    assert credits.pick(forced=False) == 1
    assert credits.pick(forced=False, usable=lambda number: number == 0) == 0
    credits.nodes[0].owed.add((0, 9))
    assert credits.pick(forced=False, usable=lambda number: number == 0) is None
    assert credits.pick(forced=True, usable=lambda number: number == 0) == 0


def simulate(
    speeds: dict[int, tuple[int, float]], batches: int, memory: int = MANY, changes: dict[int, tuple[int, float]] | None = None
) -> tuple[dict[int, int], float]:
    """Runs a window over nodes with (workers, seconds of a batch) and a trainer that never waits. From batch n on node `changes[n][0]`
    takes `changes[n][1]` seconds. Returns batches by node, and the seconds that it took."""
    window = Window(Credits(memory))
    seconds = {node: each for node, (_, each) in speeds.items()}
    for node, (workers, _) in speeds.items():
        window.node_opened(node, workers)
    window.replan(plan(50), 0)
    free = {node: [0.0] * workers for node, (workers, _) in speeds.items()}
    events: list[tuple[float, int, Key, float]] = []
    here: set[Key] = set()
    now, counts = 0.0, dict.fromkeys(speeds, 0)

    def fill(epoch: int) -> None:
        for node, asked in keys_of(window.fill(epoch)):
            started = max(now, heapq.heappop(free[node]))
            heapq.heappush(free[node], started + seconds[node])
            heapq.heappush(events, (started + seconds[node], node, asked, seconds[node]))

    for count, key in enumerate(itertools.islice(plan(50), batches)):
        if changes and count in changes:
            seconds.update([changes[count]])
        fill(key[0])
        while key not in here:
            now, node, asked, took = heapq.heappop(events)
            assert window.arrived(asked, node, 100, took)
            here.add(asked)
            counts[node] += 1
            fill(key[0])
        here.discard(key)
        window.taken(key)
    return counts, now


@pytest.mark.parametrize(
    ("fast", "slow"),
    [
        ((4, 0.010), (4, 0.040)),
        ((8, 0.01), (2, 0.01)),
        ((2, 0.001), (2, 0.004)),
        ((2, 1.0), (2, 3.0)),
        ((1, 0.1), (1, 1.0)),
        ((4, 1), (4, 9)),
    ],
)
def test_nodes_share_by_speed(fast: tuple[int, float], slow: tuple[int, float]) -> None:
    rates = fast[0] / fast[1], slow[0] / slow[1]
    counts, seconds = simulate({0: fast, 1: slow}, 2000)
    assert 0.8 * rates[0] / rates[1] < counts[0] / counts[1] < 1.25 * rates[0] / rates[1]
    assert seconds < 1.1 * 2000 / sum(rates), "both work all the time, although batches are taken in order"


@pytest.mark.parametrize(("slower", "memory"), [(10, 1200), (300, MANY)], ids=["no memory to make them ahead", "not worth the memory"])
def test_a_node_that_would_hold_up_the_others_gets_next_to_nothing(slower: int, memory: int) -> None:
    counts, seconds = simulate({0: (4, 0.1), 1: (4, 0.1 * slower)}, 20000, memory)
    assert counts[1] <= 9 + 20000 // slower // 2, "what it got before that was known, and a trial now and then"
    assert seconds < 1.2 * 20000 / 40


@pytest.mark.parametrize("other", [5e-324, 1e-9, 1.0, 1e8])
@pytest.mark.parametrize("one", [5e-324, 1e-9, 1.0, 1e8])
def test_whatever_nodes_say_of_their_speed(one: float, other: float) -> None:
    credits = Credits(MANY)
    credits.nodes = {0: Node(3), 1: Node(1 << 16)}
    for number, seconds in ((0, one), (1, other)):
        for _ in range(100):
            credits.learn(number, 10, seconds)
    alone = sum(node.workers * credits.depth(node) + 1 for node in credits.nodes.values())
    assert credits.limit() <= WIDEST * alone + alone
    assert credits.pick_for(0) in (0, 1)


def test_one_that_was_busy_for_a_while_is_tried_again() -> None:
    """For a time it is fifty times as slow. Nothing says that this is over but a trial."""
    counts, _ = simulate({0: (4, 0.01), 1: (4, 0.01)}, 40000, changes={1000: (1, 0.5), 1020: (1, 0.01)})
    assert counts[1] > 10000


def test_nobody_waits_for_a_node_that_is_overdue() -> None:
    """It was quick so far, so what is asked of it would be there soon: if it weren't overdue with something already."""
    credits = Credits(MANY)
    credits.nodes = {0: Node(1, owed={(0, 0), (0, 1), (0, 2)}, seconds=0.1), 1: Node(1, owed={(1, 0), (1, 1)}, seconds=2.0)}
    assert credits.share(credits.nodes[0]) > 3
    credits.nodes[0].owed |= {(0, n) for n in range(3, credits.share(credits.nodes[0]))}
    assert credits.pick_for(0) is None, "the quick one has no room, and will make it sooner all the same"
    assert credits.pick_for(1000) == 1
    credits.nodes[0].late = {(0, 99)}
    assert credits.pick_for(0) == 1


def test_every_worker_is_kept_busy() -> None:
    """The trainer takes a batch as soon as it is there, and 8 workers make as many as 8 can."""
    window = opened(Window(Credits(MANY)), n0=8)
    window.replan(plan(1000), 0)
    idle = 0
    here: set[Key] = set()
    pending: list[Key] = [key for _, key in keys_of(window.fill(0))]
    for key in itertools.islice(plan(1000), 400):
        while key not in here:
            idle += len(pending) < 8
            done, pending = pending[:8], pending[8:]
            for made in done:
                window.arrived(made, 0, 10, 0.1)
                here.add(made)
            pending += [k for _, k in keys_of(window.fill(0))]
        window.taken(key)
        pending += [k for _, k in keys_of(window.fill(0))]
    assert idle == 0
