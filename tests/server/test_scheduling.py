"""Batches that are overdue: who gets them too, when, and when not; and a node that is being stopped. More in test_dispatch.py."""

from __future__ import annotations

import pytest

from feeder_server.report import progress
from feeder_server.scheduling import HEDGE_FACTOR, HEDGE_SAMPLES, HEDGE_SECONDS, MAX_PATIENCE
from feeder_server.work import Assign, Send, Tell
from feeder_wire import messages as m
from feeder_wire import worker_messages as w
from tests.server.test_dispatch import MANY, OOPS, Bench, a_client, a_session, sent

USUAL = 1.0
LATE = HEDGE_FACTOR * USUAL


def known(b: Bench, seconds: float = USUAL) -> Bench:
    """A source of which it is known what a batch takes, and a session that reads it."""
    b.open(0)
    for source in b.d.sources:
        source.recent.extend([seconds] * HEDGE_SAMPLES)
        source.seconds = seconds
    return b


def late(b: Bench, index: int = 0, now: float = 0.0) -> int:
    """One worker has been given batch `index` at `now`; returns its slot."""
    b.ask(0, index)
    ((given),) = [a for a in b.d.assign(now) if isinstance(a, Assign)]
    return given.slot


def hedged(b: Bench, now: float) -> list[tuple[int, int]]:
    """(slot, index) of what is given to second workers at `now`."""
    return [(a.slot, a.task.index) for a in b.d.hedge(now)[0] if isinstance(a, Assign)]


def test_the_first_answer_counts_and_the_other_is_thrown_away() -> None:
    b = known(Bench("indexed", slots=2))
    slow = late(b, 7)
    assert hedged(b, LATE - 0.01) == []
    assert b.d.hedge_at == LATE
    (given,), (said,) = b.d.hedge(LATE)
    assert isinstance(given, Assign)
    assert (given.slot, given.task.index) == (1 - slow, 7)
    assert (said.key, said.slow, said.other, said.age, said.usual) == ((0, 7), slow, 1 - slow, LATE, USUAL)
    assert isinstance(sent(b.block(f"0-{1 - slow}-0-1", 1 - slow))[0], m.Lent)
    assert b.block(f"0-{slow}-0-1", slow) == [Tell(slow, w.Free((f"0-{slow}-0-1",)))]
    assert (b.d.hedged, b.d.hedges_won) == (1, 1)


def test_two_at_most() -> None:
    b = known(Bench("indexed", slots=4))
    late(b)
    assert len(hedged(b, LATE)) == 1
    assert hedged(b, 100 * LATE) == []


def test_nobody_idle_nobody_hedged() -> None:
    b = known(Bench("indexed", slots=2))
    late(b, 0)
    late(b, 1)
    assert hedged(b, LATE) == []
    assert b.d.hedge_at is None
    b.inline(1)
    assert len(hedged(b, LATE)) == 1


def test_what_is_queued_goes_first() -> None:
    """The idle worker has something better to do."""
    b = known(Bench("indexed", slots=2))
    late(b, 0)
    b.ask(0, 1)
    b.d.assign(LATE)
    assert hedged(b, LATE) == []


def test_the_next_one_of_a_client_first() -> None:
    b = known(Bench("indexed", slots=3))
    late(b, 5)
    late(b, 4)
    assert [index for _, index in hedged(b, LATE)] == [4]


def test_what_waits_behind_others_has_longer() -> None:
    """A worker that was given three at once is late with the third after the time of two more."""
    b = known(Bench("indexed", slots=2), seconds=HEDGE_SECONDS / 5)
    b.d.sources[0].seconds = 1e-3
    b.d.slots[1].ready = False
    b.ask(0, 0, 1, 2)
    assert len(b.d.assign(0.0)) == 3
    b.d.slots[1].ready = True
    usual = HEDGE_SECONDS / 5
    assert hedged(b, HEDGE_SECONDS) == [(1, 0)]
    b.inline(1, seconds=usual)
    assert hedged(b, HEDGE_SECONDS) == [(1, 1)]
    b.inline(1, seconds=usual)
    assert hedged(b, HEDGE_SECONDS) == []
    assert b.d.hedge_at == pytest.approx((HEDGE_FACTOR + 2) * usual)


def test_jitter_is_not_lateness() -> None:
    b = known(Bench("indexed", slots=2), seconds=1e-6)
    late(b)
    assert hedged(b, HEDGE_SECONDS * 0.99) == []
    assert len(hedged(b, HEDGE_SECONDS)) == 1


def test_nothing_is_overdue_before_it_is_known_what_is_usual() -> None:
    b = known(Bench("indexed", slots=2))
    b.d.sources[0].recent.pop()
    late(b)
    assert hedged(b, 1e6) == []


def test_one_slow_worker_does_not_change_what_is_usual() -> None:
    b = known(Bench("indexed", slots=2))
    for _ in range(10):
        slow = late(b)
        b.inline(slow, seconds=20 * USUAL)
        fast = late(b)
        b.inline(fast, seconds=USUAL)
    late(b)
    assert len(hedged(b, LATE)) == 1


@pytest.mark.parametrize("kind", ["stream", "sharded stream"])
def test_nobody_else_has_a_batch_of_a_stream(kind: str) -> None:
    b = known(Bench(kind, slots=2))
    late(b)
    assert hedged(b, 1e6) == []


def test_nobody_else_may_make_what_has_one_owner() -> None:
    b = known(Bench("indexed", slots=2, single=True))
    late(b)
    assert hedged(b, 1e6) == []
    b = known(Bench("indexed", slots=2))
    b.d.sources[0].exclusive = True
    late(b)
    assert hedged(b, 1e6) == []


def test_a_worker_whose_copy_is_not_admitted_is_not_given_any() -> None:
    b = known(Bench("indexed", slots=2))
    slow = late(b)
    b.d.slots[1 - slow].serves.clear()
    assert hedged(b, 1e6) == []


def test_there_has_to_be_room() -> None:
    b = known(Bench("indexed", slots=2, memory=1000))
    b.d.sources[0].nbytes = 600
    late(b)
    assert hedged(b, LATE) == []


def test_what_nobody_waits_for_is_left_alone() -> None:
    b = known(Bench("indexed", slots=2))
    late(b)
    b.d.cancel(a_client(0), m.Cancel(a_session(0), 1))
    assert hedged(b, LATE) == []


def test_where_the_second_is_not_quicker_there_is_more_patience() -> None:
    b = known(Bench("indexed", slots=2))
    patience = 1.0
    for _ in range(6):
        slow = late(b)
        assert hedged(b, LATE * patience * 0.99) == []
        assert len(hedged(b, LATE * patience)) == 1
        assert len(sent(b.inline(slow))) == 1
        assert b.inline(1 - slow) == []
        patience = min(MAX_PATIENCE, 2 * patience)
    slow = late(b)
    assert len(hedged(b, LATE * patience)) == 1
    b.inline(1 - slow)
    assert b.d.sources[0].patience == patience / 2, "and where it was, less again"


def test_the_slow_one_dies() -> None:
    b = known(Bench("indexed", slots=2, retries=0))
    slow = late(b)
    hedged(b, LATE)
    assert sent(b.d.worker_lost(slow, "killed")) == [], "the other one is at it"
    assert b.assigned() == []
    assert len(sent(b.inline(1 - slow))) == 1


def test_both_die_over_it() -> None:
    b = known(Bench("indexed", slots=2, retries=1))
    slow = late(b)
    hedged(b, LATE)
    assert sent(b.d.worker_lost(slow, "killed")) == []
    (failed,) = sent(b.d.worker_lost(1 - slow, "killed"))
    assert isinstance(failed, m.Failed)
    assert "died 2 times" in failed.error.message


def test_an_error_is_an_answer_too() -> None:
    b = known(Bench("indexed", slots=2))
    slow = late(b)
    hedged(b, LATE)
    assert sent(b.d.failed(1 - slow, b.task(1 - slow), OOPS)) == [m.Failed(a_session(0), 0, 0, OOPS)]
    assert b.inline(slow) == []


def test_asked_for_again_while_the_loser_is_still_at_it() -> None:
    """The connection broke, and the answer was lost: what is under way will do."""
    b = known(Bench("indexed", slots=2))
    slow = late(b)
    hedged(b, LATE)
    b.inline(1 - slow)
    b.ask(0, 0)
    assert b.assigned() == []
    assert len(sent(b.inline(slow))) == 1


# ---------------------------------------------------------------------------------------------------- being stopped


def test_drained() -> None:
    """What is under way is made, what is queued goes back, what is asked afterwards too."""
    b = Bench("indexed", slots=2, memory=MANY)
    b.open(0)
    b.ask(0, *range(5))
    b.assigned()
    actions, left, given = b.d.drain()
    assert (left, given) == (2, 3)
    assert sent(actions) == [m.HandedBack(a_session(0), 0, ()), *(m.HandedBack(a_session(0), 0, (i,)) for i in (2, 3, 4))]
    assert b.ask(0, 9) == [Send(a_client(0), m.HandedBack(a_session(0), 0, (9,)))]
    assert b.assigned() == []
    assert len(sent(b.inline(0))) == 1
    assert b.d.busy
    assert sent(b.d.worker_lost(1, "killed")) == [m.HandedBack(a_session(0), 0, (1,))]
    assert not b.d.busy


def test_drained_with_a_stream() -> None:
    """Nobody else has what it would give: it is asked again of the node that comes in this one's place."""
    b = Bench("stream", slots=2)
    b.open(0)
    b.ask(0, *range(6))
    b.assigned()
    actions, left, given = b.d.drain()
    assert (actions, left, given) == ([], 2, 0)
    b.inline(0)
    b.inline(1)
    assert b.assigned() == []
    assert not b.d.busy


def test_what_a_waiting_client_is_told() -> None:
    b = Bench("indexed", slots=2)
    b.open(0)
    b.ask(0, 17, 18, 19)
    b.d.assign(100.0)
    (said,) = progress(b.d, 143.2)
    text = "worker 0 has had batch 17 of epoch 0 for 43 s, worker 1 has had batch 18 of epoch 0 for 43 s; 1 more are queued"
    assert said == Send(a_client(0), m.Progress(a_session(0), text))
