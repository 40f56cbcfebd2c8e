"""How many workers are wanted, decided for simulated trainings whose step times are known."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_server import autoscale
from feeder_server.autoscale import Autoscale, Measured

CORES = 8
PERIOD = 10.0


class Training:
    """A training whose step takes `step` seconds, fed by workers that take `make` seconds for a batch.

    Args:
        step: 0: it takes whatever comes.
        make: where `cores` workers or fewer are at it.
        cores: with more workers than these, all get slower in proportion.
        paused: share of the time in which it does something else.
    """

    def __init__(self, step: float, make: float, cores: float = CORES, paused: float = 0.0) -> None:
        self.step, self.make, self.cores, self.paused = step, make, cores, paused
        self.scale = Autoscale()
        self.now = 0.0
        self.said: list[str] = []

    def measured(self, workers: int) -> Measured:
        seconds = self.make * max(1.0, workers / self.cores)
        apart = seconds / workers  # from one batch to the next, if nothing else holds them up
        period = max(apart, self.step, 1e-6)
        active = PERIOD * (1 - self.paused)
        batches = int(active / period)
        return Measured(PERIOD, active * max(0.0, 1 - self.step / period), batches, batches * seconds)

    def look(self, most: int = CORES) -> int:
        self.now += PERIOD
        said = self.scale.decide(self.measured(self.scale.wanted), most, self.now)
        if said:
            self.said.append(said)
        return self.scale.wanted

    def settles(self, looks: int = 40, most: int = CORES) -> int:
        seen = [self.look(most) for _ in range(looks)]
        assert len(set(seen[-20:])) == 1, seen
        return seen[-1]


@pytest.mark.parametrize(
    ("step", "make", "workers"),
    [
        (1.0, 0.5, 1),  # one is quicker than the training
        (1.0, 1.5, 2),
        (0.1, 0.28, 3),
        (0.1, 0.5, 6),  # 1, 2, 3, 4, 6
        (0.1, 0.75, 8),
        (0.0, 0.5, 8),  # never enough
        (0.1, 5.0, 8),
    ],
)
def test_as_many_as_the_training_takes(step: float, make: float, workers: int) -> None:
    assert Training(step, make).settles() == workers


def test_it_begins_with_one_and_says_each_step() -> None:
    training = Training(0.0, 0.5)
    assert [training.look() for _ in range(7)] == [2, 3, 4, 6, 8, 8, 8]
    assert training.said[0] == "2 workers instead of 1: the training waits for data 100% of the time"
    assert training.said[-1].endswith("there is no room for more than 8 workers on this machine")
    assert len(training.said) == 6, "the last word is said once"


def test_what_makes_nothing_quicker_is_taken_back_and_tried_again_much_later() -> None:
    """A disk, a lock, or a machine that others use: two workers share what one had."""
    training = Training(0.0, 0.5, cores=1)
    assert [training.look() for _ in range(2)] == [2, 1]
    assert training.said[1].startswith("2 workers make 2 batches/s and 1 made 2: back to 1. The training waits for data all the same")
    tries = [now for now in range(200) if training.look() == 2]
    assert len(tries) >= 2
    gaps = [b - a for a, b in itertools.pairwise(tries)]
    assert min(gaps) * PERIOD >= autoscale.FIRST_HOLD
    assert gaps == sorted(gaps)


def test_more_cores_are_asked_for_than_there_are() -> None:
    training = Training(0.0, 0.5, cores=3)
    assert [training.look() for _ in range(8)] == [2, 3, 4, 3, 3, 3, 3, 3]


def test_those_without_work_are_let_go_and_come_back_where_they_had_some() -> None:
    training = Training(0.0, 0.5)
    training.settles()
    training.step = 0.2  # another model: 2.5 workers would do
    while training.look() == 8:
        pass
    assert training.said[-1] == "4 workers instead of 8: the others have nothing to do, the training is the limit"
    # One in four batches takes much longer now, which the average doesn't show.
    bound = Measured(PERIOD, 5.0, 50, 25.0)
    assert training.scale.decide(bound, CORES, training.now) == "8 workers again: with fewer the training waited for data 50% of the time"
    assert training.scale.wanted == 8
    training.now += PERIOD
    assert training.settles(20) == 8, "not again so soon"


def test_a_pause_is_no_reason_to_believe_that_workers_are_in_each_others_way() -> None:
    training = Training(0.0, 0.5)
    training.look()
    training.paused = 0.6
    assert training.look() == 3


def test_never_more_than_there_is_room_for() -> None:
    training = Training(0.0, 0.5)
    assert training.settles(most=3) == 3
    assert training.scale.limit(1)
    assert training.scale.wanted == 1
    assert not training.scale.limit(1)


@given(st.floats(0.001, 2.0), st.floats(0.001, 5.0), st.integers(1, 64))
def test_it_settles_where_nothing_waits_or_nothing_is_left(step: float, make: float, most: int) -> None:
    training = Training(step, make, cores=64)
    found = training.settles(60, most)
    needed = make / step
    assert 1 <= found <= most
    assert found == most or training.measured(found).waited / PERIOD <= autoscale.INPUT_BOUND
    assert found <= max(2, math.ceil(1.5 * needed / autoscale.BUSY) + 1)


@given(st.floats(0.05, 1.0), st.floats(0.05, 5.0), st.integers(1, 64), st.floats(0.2, 0.8))
def test_a_training_that_pauses_has_its_workers_most_of_the_time(step: float, make: float, most: int, paused: float) -> None:
    """What it needs can't be told from what it takes. So fewer are tried, ever more seldom, and given back at once."""
    training = Training(step, make, cores=64, paused=paused)
    seen = [training.look(most) for _ in range(400)][100:]
    enough = min(most, make / step / 1.2)
    assert sum(workers < enough and training.measured(workers).waited > PERIOD * autoscale.INPUT_BOUND for workers in seen) <= 10
