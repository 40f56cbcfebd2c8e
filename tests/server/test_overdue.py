"""Whose time for one batch is up."""

from __future__ import annotations

import pytest

from feeder_server.overdue import LONGEST_GAP, Overdue
from feeder_server.work import Job, Session, Slot
from feeder_wire.beacon import IDLE, UNTIMED

SESSION = Session(bytes(16), 0, b"client", True)


def worker(*tasks: int, generation: int = 1) -> Slot:
    """One that was given these tasks."""
    return Slot(generation=generation, ready=True, jobs={task: Job(SESSION, (0, task), 0) for task in tasks})


class TestOverdue:
    def test_a_batch_that_hangs_and_others_that_do_not(self) -> None:
        overdue = Overdue(10)
        slots = [worker(1), worker(2)]
        for now in range(100, 110):
            assert overdue.look(slots, {0: (1, 1), 1: (2, now)}, float(now)) == []
        assert overdue.look(slots, {0: (1, 1), 1: (2, 110)}, 110.0) == [], "ten seconds are allowed"
        assert overdue.look(slots, {0: (1, 1), 1: (2, 111)}, 110.1) == [(0, 1)]

    def test_what_waits_in_the_queue_costs_it_nothing(self) -> None:
        """Each task has its own time, from when the worker came to it."""
        overdue = Overdue(3)
        slots = [worker(1, 2, 3, 4, 5)]
        for now in range(10):
            task = 1 + now // 2
            assert overdue.look(slots, {0: (task, task)}, float(now)) == []
        for now in range(10, 12):
            assert overdue.look(slots, {0: (5, 5)}, float(now)) == []
        assert overdue.look(slots, {0: (5, 5)}, 12.0) == [(0, 5)]

    def test_steps_of_one_task_have_their_own_time_too(self) -> None:
        """Three epochs to be replayed, and then the batch."""
        overdue = Overdue(3)
        for now in range(12):
            assert overdue.look([worker(1)], {0: (1, 1 + now // 3)}, float(now)) == []

    def test_building_a_copy_does_not_count(self) -> None:
        overdue = Overdue(3)
        for now in range(100):
            assert overdue.look([worker(1)], {0: (1, UNTIMED)}, float(now)) == []
        for now in range(100, 104):
            assert overdue.look([worker(1)], {0: (1, 1)}, float(now)) == []
        assert overdue.look([worker(1)], {0: (1, 1)}, 103.5) == [(0, 1)]

    @pytest.mark.parametrize("step", [(IDLE, UNTIMED), (7, 3)], ids=["idle", "reported already"])
    def test_who_is_at_nothing_that_it_was_given(self, step: tuple[int, int]) -> None:
        overdue = Overdue(3)
        for now in range(20):
            assert overdue.look([worker(1)], {0: step}, float(now)) == []

    def test_without_a_beacon_it_is_at_what_it_was_given_first(self) -> None:
        overdue = Overdue(3)
        for now in range(4):
            assert overdue.look([worker(4, 5), worker()], {0: None}, float(now)) == []
        assert overdue.look([worker(4, 5), worker()], {0: None}, 4.0) == [(0, 4)]

    def test_the_worker_in_its_place_has_all_its_time(self) -> None:
        overdue = Overdue(3)
        for now in range(4):
            overdue.look([worker(1)], {0: (1, 1)}, float(now))
        assert overdue.look([worker(1, generation=2)], {0: (1, 1)}, 4.0) == []
        assert overdue.look([worker(1, generation=2)], {0: (1, 1)}, 6.0) == []
        assert overdue.look([worker(1, generation=2)], {0: (1, 1)}, 7.5) == [(0, 1)]

    def test_said_once(self) -> None:
        overdue = Overdue(1)
        said = [overdue.look([worker(1)], {0: (1, 1)}, now / 2) for now in range(5)]
        assert [bool(late) for late in said] == [False, False, False, True, False]

    def test_time_in_which_nobody_looked_counts_in_part(self) -> None:
        """The machine slept, or everything was paused: the worker has not worked either."""
        overdue = Overdue(10)
        overdue.look([worker(1)], {0: (1, 1)}, 0.0)
        assert overdue.look([worker(1)], {0: (1, 1)}, 5000.0) == []
        assert overdue.look([worker(1)], {0: (1, 1)}, 5000.0 + 8.0 - LONGEST_GAP) == []

    @pytest.mark.parametrize(("timeout", "period"), [(0.001, 0.05), (2, 0.2), (600, 1.0)])
    def test_how_often_to_look(self, timeout: float, period: float) -> None:
        assert Overdue(timeout).period == period
