"""The benchmark program works: its arithmetic on figures of ours, and one tiny run of everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import quick, seeding, sources
from benchmarks.quick import Claim, Task, claims, markdown, ratios, spread, tables

ROOT = Path(__file__).resolve().parents[1]


def results(**changes: list[float | None]) -> quick.Results:
    """Two rounds in which everything took 1, and the changes."""
    return {name: changes.get(name.replace(" ", "_"), [1.0, 1.0]) for name in quick.MEASUREMENTS}


class TestArithmetic:
    @pytest.mark.parametrize(
        ("values", "text"),
        [
            ([2.0], "2"),
            ([3.0, 1.0, 2.0], "2 (1 to 3)"),
            ([12345.6], "12,346"),
            ([], "absent"),
            ([None, None], "absent"),
            ([None, 2.0], "2"),
        ],
    )
    def test_median_and_spread(self, values: list[float | None], text: str) -> None:
        assert spread(values) == text

    def test_ratios_are_of_one_round(self) -> None:
        found = results(big_feeder=[30.0, 300.0], big_torch=[10.0, 100.0])
        assert ratios(found, "big feeder", "big torch") == [3.0, 3.0]

    def test_a_peer_that_is_absent_is_no_zero(self) -> None:
        found = results(big_torch=[None, None], small_torch=[None, None])
        assert ratios(found, "big feeder", "big torch") == [None, None]
        first = claims(found, "")[0].row()
        assert first[1:] == ("absent", "at least 2.5 x", "not measured")
        text = markdown(tables(found, ""), ["a machine"], "a command")
        assert "| big: torch DataLoader, tensors | absent | batches/s |" in text
        assert "| 0 |" not in text.replace("frameworks in a NumPy-only worker: none | 0 |", "")

    def test_goals(self) -> None:
        assert Claim("a", [3.0, 2.0, 9.0], 2.5).row() == ("a", "3 (2 to 9) x", "at least 2.5 x", "yes")
        assert Claim("a", [2.0], 2.5).row()[3] == "NO"
        assert Claim("a", [0.9], 1.0, at_most=True).row()[2:] == ("at most 1 x", "yes")
        assert Claim("a", [1.1], 1.0, at_most=True).row()[3] == "NO"
        assert Claim("a", [1.1]).row()[2:] == ("", "")

    def test_the_first_batch_is_held_against_the_bare_python_of_its_round(self) -> None:
        found = results(start_feeder=[0.65, 1.3], start_python=[0.1, 0.2])
        assert claims(found, "")[3].values == [1.0, 1.625]

    def test_a_framework_in_a_worker_shows(self) -> None:
        assert claims(results(), "torch")[4].row()[3] == "NO"
        assert claims(results(), "")[4].row()[3] == "yes"

    def test_short_runs_have_short_passes(self) -> None:
        assert Task(quick.SECONDS, 1).length("big") == Task(100.0, 1).length("big") == 200
        assert Task(0.3, 1).length("big") == 20
        assert Task(0.001, 1).length("cpu") == 4


def test_the_order_is_rotated(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(quick, "in_fresh_process", lambda name, task: asked.append(name))
    found = quick.run(3, Task(1.0, 1), lambda text: None)
    count = len(quick.MEASUREMENTS)
    rounds = [asked[i : i + count] for i in range(0, 3 * count, count)]
    assert all(sorted(names) == sorted(quick.MEASUREMENTS) for names in rounds)
    assert len({names[0] for names in rounds}) == 3
    assert all(len(values) == 3 for values in found.values())


def test_the_work_is_what_it_says() -> None:
    x, y = sources.Small(3)[1]
    assert (x.dtype, x.shape, y.dtype, y.shape) == ("float32", (32, 26, 3), "int64", (32,))
    assert sources.Big.shape == (64, 224, 224, 3)
    x, y = sources.Cpu(3, loops=10)[2]
    assert (x.nbytes, y[0]) == (32 * 64 * 64 * 3 * 4, 2)
    assert sources.loops_for(0.001) > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_tiny_run(tmp_path: Path) -> None:
    file = tmp_path / "table.md"
    command = [sys.executable, "-m", "benchmarks.quick", "--rounds", "1", "--seconds", "0.05", "--markdown", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    text = file.read_text(encoding="utf-8")
    assert text.startswith("`python -m benchmarks.quick --rounds 1 --seconds 0.05`")
    assert all(f"| {title} | " in text for title, _, _ in quick.MEASUREMENTS.values())
    assert "| frameworks in a NumPy-only worker: none | 0 | at most 0 | yes |" in text
    assert "claim" in done.stdout


class TestSeeding:
    def test_what_is_not_installed_is_absent(self) -> None:
        found: quick.Results = {name: [2.0, 4.0] for name in seeding.MEASUREMENTS}
        found["tensorflow"] = [None, None]
        head, rows = seeding.table(found)
        assert len(head) == 3 and len(rows) == len(seeding.MEASUREMENTS)
        assert ("seeding an item: tensorflow is loaded", "absent", "us") in rows
        assert ("seeding an item: no generator of its own", "3 (2 to 4)", "us") in rows
        assert seeding.plain(needs="no_such_package")() is None

    def test_the_order_is_rotated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str] = []
        monkeypatch.setattr(seeding, "in_fresh_process", asked.append)
        found = seeding.run(2, lambda text: None)
        count = len(seeding.MEASUREMENTS)
        assert sorted(asked[:count]) == sorted(asked[count:]) == sorted(seeding.MEASUREMENTS) and asked[0] != asked[count]
        assert all(values == [None, None] for values in found.values())

    @pytest.mark.parametrize("name", ["seventeen", "compared 4"])
    def test_one_for_real(self, name: str) -> None:
        """Seeding is never free, and a server never up in no time."""
        assert 0.05 < seeding.in_fresh_process(name) < 100_000
