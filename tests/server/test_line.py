"""How quick a line is, from when batches leave."""

from __future__ import annotations

from feeder_server.line import KNOWN_SECONDS, Line


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
