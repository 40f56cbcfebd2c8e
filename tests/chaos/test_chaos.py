"""The chaos program itself: a short run, and that it finds what is wrong. See tests/README.md for longer ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.chaos.__main__ import listed
from tests.chaos.plan import FAULTS
from tests.serving import PATIENCE, Running

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def chaos(*arguments: str) -> Running:
    return Running([sys.executable, "-m", "tests.chaos", "--no-fit", *arguments], ROOT)


def test_a_short_run() -> None:
    """Of a fixed seed; what the faults meet depends on the machine all the same, so a failure may need several tries."""
    with chaos("--seed", "2", "--minutes", "0.6") as run:
        code = run.wait(350 * PATIENCE)
        print(run.stdout)
        assert code == 0, run.output
        assert "outcome                  all well" in run.stdout


@pytest.mark.parametrize(
    ("sabotage", "row"),
    [
        ("lose", "lost                   1"),
        ("double", "doubled                1"),
        ("change", "wrong                  1"),
        ("seed", "wrong "),
    ],
)
def test_it_can_fail(sabotage: str, row: str) -> None:
    """A trainer that loses, doubles or changes a batch, and a server with another seed: each is seen, and named."""
    with chaos("--seed", "5", "--minutes", "0.5", "--nodes", "1", "--trainers", "1", "--faults", "garbage", "--sabotage", sabotage) as run:
        assert run.wait(100 * PATIENCE) == 1, run.output
        assert f"  {row}" in run.stdout, run.output
        assert "FAILED" in run.stdout
        assert "Again: python -m tests.chaos --seed 5" in run.stdout
        assert "last lines of node 0" in run.stdout


def test_it_notices_what_is_left_behind() -> None:
    with chaos("--seed", "5", "--minutes", "0.05", "--nodes", "1", "--trainers", "1", "--faults", "garbage", "--sabotage", "leave") as run:
        assert run.wait(100 * PATIENCE) == 1, run.output
        assert "left behind: threads     trainer 0" in run.stdout, run.output


def test_it_says_what_there_is() -> None:
    assert all(line.split()[0] in FAULTS for line in listed().splitlines())
    assert "left out on Windows" in listed()
