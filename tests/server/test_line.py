"""How quick a line is, from when batches leave."""

from __future__ import annotations

from feeder_server.line import KNOWN_SECONDS, QUICK_RATE, Line


def send(line: Line, start: float, seconds: float, every: float, nbytes: int) -> float:
    """Keeps two batches under way for so long; one leaves `every` seconds. Returns when the last one has left."""
    line.began(start)
    now = start
    while now < start + seconds:
        line.began(now)
        now += every
        line.ended(now, nbytes)
    line.ended(now, nbytes)
    return now


def test_a_line_that_is_always_busy_is_measured() -> None:
    line = Line()
    now = send(line, 0.0, 5.0, 0.1, 1_000_000)
    assert 9_000_000 < line.rate(now) < 11_000_000


def test_what_the_system_takes_at_once_does_not_count() -> None:
    line = Line()
    line.began(0.0)
    for _ in range(10):
        line.began(0.0)
        line.ended(0.001, 1_000_000)
    for k in range(1, 30):
        line.began(k * 0.1)
        line.ended(k * 0.1, 100_000)
    assert 900_000 < line.rate(3.0) < 1_100_000


def test_of_a_line_that_could_take_more_nothing_is_known() -> None:
    line = Line()
    for k in range(100):
        line.began(k * 0.1)
        line.ended(k * 0.1 + 0.09, 1_000_000)
    assert line.rate(10.0) == 0
    assert Line().rate(0.0) == 0


def test_it_is_forgotten_after_a_while_and_measured_anew() -> None:
    line = Line()
    now = send(line, 0.0, 3.0, 0.1, 1_000_000)
    assert line.rate(now + KNOWN_SECONDS - 1) > 0
    assert line.rate(now + KNOWN_SECONDS + 1) == 0
    later = send(line, now + KNOWN_SECONDS + 1, 3.0, 0.1, 10_000)
    assert 90_000 < line.rate(later) < 110_000, "the old one has no part in it"


def leaves(line: Line, start: float, seconds: float, rate: float) -> float:
    """Ten batches a second, so many bytes a second in all. Returns when the last one has left."""
    now = start
    for k in range(int(seconds * 10)):
        now = start + k / 10
        line.began(now)
        line.ended(now + 0.05, int(rate / 10))
    return now + 0.05


def test_a_line_is_quick_while_much_leaves_second_after_second() -> None:
    line = Line()
    assert not line.quick(0.0)
    now = leaves(line, 0.0, 3.0, 2 * QUICK_RATE)
    assert line.quick(now) and not line.quick(now + KNOWN_SECONDS + 1)
    now = leaves(line, now, 3.0, QUICK_RATE / 2)
    assert not line.quick(now)
    now = leaves(line, now, 3.0, 2 * QUICK_RATE)
    assert line.quick(now)


def test_a_line_is_not_quick_by_what_the_system_takes_at_once() -> None:
    line = Line()
    now = leaves(line, 100.0, 0.9, 10 * QUICK_RATE)
    assert not line.quick(now), "not a second yet"
    line.began(now)
    line.ended(now + 60.0, 1_000)
    assert not line.quick(now + 60.0), "all of it within a minute"
