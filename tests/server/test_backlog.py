"""What was sent and has not left: counted by trackers now and then."""

from __future__ import annotations

from dataclasses import dataclass

from feeder_server.backlog import MARK_BYTES, Backlog


@dataclass
class Tracker:
    done: bool = False


def test_what_is_small_needs_no_tracker() -> None:
    backlog = Backlog()
    for _ in range(10):
        assert not backlog.due
        backlog.sent(100)
    assert backlog.nbytes == 1000


def test_one_tracker_speaks_for_all_before_it() -> None:
    backlog = Backlog()
    backlog.sent(MARK_BYTES)
    assert backlog.due
    first, second = Tracker(), Tracker()
    backlog.sent(50)
    backlog.mark(first)
    assert not backlog.due
    backlog.sent(MARK_BYTES)
    backlog.mark(second)
    backlog.sent(7)
    assert backlog.nbytes == 2 * MARK_BYTES + 57
    first.done = True
    assert backlog.nbytes == MARK_BYTES + 7
    second.done = True
    assert backlog.nbytes == 7
