"""Who has been at something for too long."""

from __future__ import annotations

import pytest

from feeder_server.patience import Patience
from feeder_server.work import Job, Session, Slot

SESSION = Session(bytes(16), 0, b"client", True)


def at(task: int | None, index: int = 0, epoch: int = 0) -> Slot:
    """A worker with one task, or with none."""
    return Slot(generation=1, ready=True, jobs={} if task is None else {task: Job(SESSION, (epoch, index), 0)})


def test_a_batch_that_hangs() -> None:
    patience = Patience(10)
    assert patience.late([at(1), at(2, 7, 1)], False, 0.0) == ""
    assert patience.late([at(3), at(2, 7, 1)], False, 9.0) == ""
    assert patience.late([at(4), at(2, 7, 1)], False, 10.5) == "worker 1 has been making batch 7 of pass 2 for 10 s"
    assert patience.late([at(4), at(2, 7, 1)], True, 10.5) == "worker 1 has been making a batch of pass 2 for 10 s"


def test_each_batch_has_its_own_time() -> None:
    patience = Patience(10)
    for now in range(100):
        assert patience.late([at(now // 8)], False, float(now)) == ""


def test_what_waits_behind_it_is_not_blamed() -> None:
    slot = at(1, 5)
    slot.jobs[2] = Job(SESSION, (0, 6), 0)
    patience = Patience(10)
    patience.late([slot], False, 0.0)
    assert "batch 5" in patience.late([slot], False, 11.0)
    del slot.jobs[1]
    assert patience.late([slot], False, 12.0) == ""


def test_loading_and_a_worker_that_was_replaced() -> None:
    patience = Patience(10)
    assert patience.late([Slot(generation=1)], False, 0.0) == ""
    assert patience.late([Slot(generation=2)], False, 11.0) == ""
    assert patience.late([Slot(generation=2)], False, 22.0) == "worker 0 has been loading the source for 10 s"


@pytest.mark.parametrize("idle_first", [True, False])
def test_nobody_has_anything_to_do(idle_first: bool) -> None:
    """An idle worker is not late as long as another one works; when all are idle and still something is waited for, it ends too."""
    patience = Patience(10)
    workers = [at(None), at(1)] if idle_first else [at(1), at(None)]
    patience.late(workers, False, 0.0)
    assert "making" in patience.late(workers, False, 11.0)
    patience.late([at(None), at(None)], False, 12.0)
    assert "no worker has anything to do" in patience.late([at(None), at(None)], False, 23.0)
