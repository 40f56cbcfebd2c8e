"""The sentence that says whether the training waits for its data, and how many workers would cure it."""

from __future__ import annotations

import dataclasses

import pytest

from feeder_client.stats import Stats


def measured(wait: float, elapsed: float = 10.0, compute: float = 0.0, workers: int = 2, batches: int = 100) -> Stats:
    return Stats(batches=batches, wait_seconds=wait, elapsed_seconds=elapsed, compute_seconds=compute, workers=workers)


@pytest.mark.parametrize("batches", [0, 1])
def test_too_few_batches(batches: int) -> None:
    assert "too few" in measured(9.0, batches=batches).verdict()


@pytest.mark.parametrize(("wait", "share"), [(0.0, "0%"), (0.4, "4%")])
def test_not_input_bound(wait: float, share: str) -> None:
    verdict = measured(wait).verdict()
    assert verdict.startswith("not input-bound")
    assert share in verdict


def test_how_many_workers_would_cure_it() -> None:
    # 2 workers made 20 s of work in 10 s, 6 of which the training stood still: the other 4 s need 5 workers.
    verdict = measured(wait=6.0, compute=20.0).verdict()
    assert verdict == "input-bound: the training waited for data 60% of the time; about 5 workers instead of 2 would cure it"


def test_who_reads_ahead_waits_while_the_training_goes_on() -> None:
    verdict = dataclasses.replace(measured(wait=6.0, compute=20.0), reads_ahead=True).verdict()
    assert verdict == "input-bound: the training waited for data up to 60% of the time; at most 5 workers instead of 2 would cure it"


@pytest.mark.parametrize(
    ("wait", "compute", "workers"),
    [
        (9.99, 100.0, 4),  # nothing but waiting: how much it would take can't be said
        (5.0, 5.0, 4),  # enough of them, and yet it waits (a slow network)
        (10.0, 0.0, 1),
    ],
)
def test_more_workers_where_their_number_can_t_be_said(wait: float, compute: float, workers: int) -> None:
    verdict = measured(wait, compute=compute, workers=workers).verdict()
    assert verdict.startswith("input-bound")
    assert f"more than {workers} workers" in verdict
    assert "about" not in verdict


@pytest.mark.parametrize(("wait", "elapsed", "share"), [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (5.0, 10.0, 0.5), (11.0, 10.0, 1.0)])
def test_the_share_is_a_share(wait: float, elapsed: float, share: float) -> None:
    assert measured(wait, elapsed).wait_share == share


def test_they_are_a_look_at_one_moment() -> None:
    stats = Stats()
    assert all(value == 0 for value in dataclasses.asdict(stats).values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.batches = 1  # type: ignore[misc]
