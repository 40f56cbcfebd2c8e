"""The benchmark programs work: their arithmetic on figures of ours, and tiny runs of everything. Nothing here asserts how fast it is."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as programs
from benchmarks import chart, compare, everything, fit, gpu, gpu_training, memory, quick, recover, report, scale, seeding, sources, start
from benchmarks.job import WORKS, Batches, Job, Peer, figures
from benchmarks.measuring import AbsentError, Outcome, measure, rotated
from benchmarks.pace import LEAST_STEPS, Span
from benchmarks.peers import PEERS, rate_of
from benchmarks.program import Found
from benchmarks.quick import Task, claims, tables
from benchmarks.report import Claim, Results, Table, best, claims_table, markdown, quotients, ratios, spread
from tests.serving import until

ROOT = Path(__file__).resolve().parents[1]


def results(**changes: list[float | None]) -> Results:
    """Two rounds in which everything took 1, and the changes."""
    return {name: changes.get(name.replace(" ", "_"), [1.0, 1.0]) for name in quick.MEASUREMENTS}


class TestArithmetic:
    @pytest.mark.parametrize(
        ("values", "text"),
        [
            ([2.0], "2"),
            ([3.0, 1.0, 2.0], "2 (1 to 3)"),
            ([12345.6], "12,346"),
            ([999.96], "1,000"),
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
        assert claims(results(), None)[4].row()[3] == "not measured"

    def test_the_best_form_of_a_peer_counts(self) -> None:
        assert best([[1.0, None], [3.0, None], [2.0, 5.0]]) == [3.0, 5.0]
        assert best([[None]]) == [None]
        assert quotients([6.0, 6.0, None], [3.0, None, 1.0]) == [2.0, None, None]


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
    assert (x.dtype.name, x.shape, y.dtype.name, y.shape) == ("float32", (32, 26, 3), "int64", (32,))
    assert sources.Big.shape == (64, 224, 224, 3)
    for name, work in WORKS.items():
        job = Job(name, 1.0, loops=10, length=3)
        x, y = job.make()[0]
        assert (x.nbytes + y.nbytes, len(x), len(job.make())) == (work.bytes, work.batch, 3)
    x, y = sources.Cpu(3, loops=10)[2]
    assert (x.nbytes, y[0]) == (32 * 64 * 64 * 3 * 4, 2)
    assert sources.loops_for(0.001) > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_tiny_run(tmp_path: Path) -> None:
    file = tmp_path / "table.md"
    command = [sys.executable, "-m", "benchmarks", "quick", "--rounds", "1", "--seconds", "0.05", "--markdown", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    text = file.read_text(encoding="utf-8")
    assert text.startswith("`python -m benchmarks quick --rounds 1 --seconds 0.05`")
    assert all(f"| {title} | " in text for title, _, _ in quick.MEASUREMENTS.values())
    assert "| frameworks in a NumPy-only worker: none | 0 | at most 0 | yes |" in text
    assert "claim" in done.stdout


class TestMeasuring:
    """Functions of this file, and of the standard library, measured in a process of their own."""

    def test_figures_come_back(self) -> None:
        outcome = measure("tests.test_benchmarks:measured", {"value": 2.5}, 60.0)
        assert (outcome.get("value"), outcome.why) == (2.5, "")
        assert outcome.get("other") is None

    @pytest.mark.parametrize(
        ("how", "why"),
        [
            ("raises", "ValueError: no such thing"),
            ("absent", "not installed: nothing"),
            ("exits", "ended with exit code 7: its last words"),
        ],
    )
    def test_what_fails_says_why(self, how: str, why: str) -> None:
        assert measure("tests.test_benchmarks:failing", {"how": how}, 60.0) == Outcome(why=why)

    def test_what_hangs_is_ended_with_all_that_it_started(self, tmp_path: Path) -> None:
        file = tmp_path / "child"
        assert measure("tests.test_benchmarks:hanging", {"file": str(file)}, 8.0).why == "still not done after 8 s"
        child = int(file.read_text())
        until(lambda: not alive(child), f"process {child} is gone")

    def test_the_order_is_rotated(self) -> None:
        asked: list[str] = []
        found = rotated({"a": "A", "b": "B", "c": "C"}, 3, lambda name: len(asked.append(name) or asked), lambda text: None)  # type: ignore[func-returns-value]
        assert asked == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
        assert found == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}

    def test_warming_up_is_not_measured(self) -> None:
        """Two batches at least come before the first that counts."""
        job = Job("small", 0.05)
        taken = 0

        def batches() -> Batches:
            nonlocal taken
            for taken in range(1, 10**9):  # noqa: B007
                yield np.zeros((32, 1)), None

        found = figures(batches(), job)
        assert found["rate"] > 0 and 0 < found["batches"] <= taken - 2

    def test_another_batch_than_the_one_that_was_asked_for_is_refused(self) -> None:
        with pytest.raises(RuntimeError, match="not the batch"):
            figures(iter([(np.zeros((5, 1)), None)] * 9), Job("small", 0.01))


def measured(value: float) -> dict[str, float]:
    return {"value": value}


def failing(how: str) -> dict[str, float]:
    if how == "absent":
        raise AbsentError("not installed: nothing")
    if how == "exits":
        print("its last words", file=sys.stderr, flush=True)
        os._exit(7)
    raise ValueError("no such thing\nand more")


def hanging(file: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(file).write_text(str(child.pid))
    child.wait()


def alive(pid: int) -> bool:
    if sys.platform == "win32":  # where os.kill(pid, 0) presses Ctrl-C
        import psutil

        return psutil.pid_exists(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def outcomes(**rates: float | None) -> compare.Outcomes:
    """Two rounds of ``work__peer``; None: absent."""
    absent = Outcome(why="not | installed")
    names = {name: name.replace("__", "/").replace("_", "-") for name in rates}
    return {names[name]: [Outcome({"rate": rate, "cpu": 0.001 / rate}) if rate else absent] * 2 for name, rate in rates.items()}


class TestCompare:
    def test_every_workload_has_feeder_and_peers(self) -> None:
        everything = compare.pairs(WORKS, PEERS)
        for work in WORKS:
            assert f"{work}/feeder" in everything and f"{work}/feeder-tcp" in everything and f"{work}/torch" in everything
        assert {"big/memcpy", "small/pyzmq", "cpu/in-process", "big/feeder-empty"} <= set(everything)
        assert "big/in-process" not in everything  # it would hand out the same array for ever
        assert all(peer.settings and set(peer.works) <= set(WORKS) for peer in PEERS.values())

    def test_the_fastest_comes_first_and_who_is_absent_last(self) -> None:
        table = compare.work_table(outcomes(small__torch=50.0, small__grain=None, small__feeder=200.0, small__pyzmq=400.0), "small")
        assert [row[0] for row in table.rows] == ["_bare pyzmq over tcp_", "**feeder**", "torch DataLoader, tensors", "grain"]
        assert table.rows[1] == ("**feeder**", "200", "0.00205", "5 us", "")
        assert table.rows[2][-1] == "4"
        assert table.rows[3] == ("grain", "absent: not / installed", "", "", "")

    def test_goals_are_held_against_the_best_form_of_a_peer(self) -> None:
        found = outcomes(big__feeder=100.0, big__torch=10.0, big__torch_numpy=20.0, big__feeder_tcp=30.0, big__pyzmq=60.0)
        rows = {claim.text: claim.row()[1:] for claim in compare.claims(found)}
        assert rows["1. big: feeder / the best DataLoader"] == ("5 x", "at least 3.5 x", "yes")
        assert rows["1. big: feeder / Keras multiprocessing"] == ("absent", "at least 30 x", "not measured")
        assert rows["4. big over tcp: feeder / bare pyzmq"] == ("0.5 x", "at least 1 x", "NO")
        assert rows["7. big: CPU seconds per GB, feeder / the most sparing DataLoader"] == ("0.2 x", "at most 0.25 x", "yes")

    def test_a_package_that_is_not_there_makes_a_peer_absent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(PEERS, "nobody", Peer("nobody", "not at all", PEERS["memcpy"].open, needs=("no_such_package",)))
        with pytest.raises(AbsentError, match="not installed: no_such_package"):
            rate_of("nobody", Job("small", 0.01).to_dict())

    def test_what_is_no_work_and_no_peer_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        for option, bad in (("--only", "huge"), ("--peers", "feeder,nobody"), ("--rounds", "0"), ("--seconds", "0")):
            with pytest.raises(SystemExit):
                compare.main([option, bad])
            assert option in capsys.readouterr().err

    def test_the_chart_is_a_picture(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        file = tmp_path / "chart.png"
        assert chart.draw(outcomes(small__torch=50.0, small__feeder=200.0, cpu__grain=None), file, ["a machine"]) == ""
        assert file.read_bytes().startswith(b"\x89PNG")
        assert chart.draw(outcomes(cpu__grain=None), file, []) == "nothing was measured"

    @pytest.mark.timeout(120)
    def test_a_tiny_run(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """In this process but for the measurements; of the peers only those that need nothing."""
        file = tmp_path / "table.md"
        names = "feeder,feeder-tcp,memcpy,in-process,pyzmq"
        compare.main(["--quick", "--only", "small,sleep", "--peers", names, "--markdown", str(file)])
        text = file.read_text(encoding="utf-8")
        assert text.startswith(f"`python -m benchmarks compare --rounds 1 --seconds 0.3 --only small,sleep --peers {names}`\n")
        assert "### small" in text and "### sleep" in text and "### cpu" not in text
        well_formed(text)
        raw = json.loads(file.with_suffix(".json").read_text())["outcomes"]
        assert sorted(raw) == sorted(
            ["small/feeder", "small/feeder-tcp", "small/memcpy", "small/pyzmq", "sleep/feeder", "sleep/feeder-tcp", "sleep/in-process"]
        )
        assert all(outcome["figures"]["rate"] > 0 and outcome["figures"]["cpu"] >= 0 for found in raw.values() for outcome in found), raw
        assert "round 1 of 1: sleep: **feeder**" in capfd.readouterr().err

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("name", ["feeder-empty", "grain", "keras-processes", "ray", "tensorpack", "tf-map", "torch"])
    def test_each_peer_brings_batches(self, name: str) -> None:
        """One of each file: what is installed works; what is not says so."""
        work = "mid" if "mid" in PEERS[name].works else PEERS[name].works[0]
        found = measure("benchmarks.peers:rate_of", {"peer": name, "job": Job(work, 0.2, loops=1000).to_dict()}, 300.0)
        if found.why.startswith("not installed"):
            pytest.skip(found.why)
        assert found.why == "" and found.figures["rate"] > 0


def well_formed(text: str) -> None:
    """Every table has rows, all as long as its head, and nothing is a zero that was not measured."""
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert blocks
    for lines in blocks:
        assert len(lines) > 2, lines
        assert len({line.count("|") for line in lines}) == 1, lines
        assert not [line for line in lines if "| 0 |" in line or "nan" in line], lines


@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_each_program_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"benchmarks.{name}").main(["--help"])
    assert ended.value.code == 0
    assert f"python -m benchmarks {name}" in capsys.readouterr().out


SMALLER = {program.name: program for program in (fit.PROGRAM, start.PROGRAM, scale.PROGRAM, memory.PROGRAM, recover.PROGRAM)}


@pytest.mark.parametrize("name", SMALLER)
class TestSmallerPrograms:
    def test_tables(self, name: str) -> None:
        """Every figure that is shown or held against a goal is one that a measurement gives."""
        program = SMALLER[name]
        given = {asked: Outcome({row.figure: 2.0 for row in program.rows if row.measurement == asked}) for asked in program.measurements}
        goals, figures = program.tables(Found({asked: [outcome, outcome] for asked, outcome in given.items()}))
        assert {row[1] for row in figures.rows} == {"2"} and len(figures.rows) == len(program.rows)
        assert not [row for row in goals.rows if "absent" in row[1] or row[3] == "not measured"]
        well_formed(markdown([goals, figures], ["a machine"], "a command"))

    def test_what_is_absent_has_a_reason_and_no_figure(self, name: str) -> None:
        program = SMALLER[name]
        goals, figures = program.tables(Found({asked: [Outcome(why="no | such thing")] for asked in program.measurements}))
        assert {row[1] for row in figures.rows} == {"absent: no / such thing"}
        assert {row[1] for row in goals.rows} == {"absent"} and not {row[3] for row in goals.rows} & {"yes", "NO"}
        well_formed(markdown([goals, figures], [], "a command"))

    def test_only(self, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """A name is that measurement; the beginning of one is all that begin so; anything else is refused."""
        program = SMALLER[name]
        asked: list[str] = []

        def pretend(function: str, arguments: object, limit: float) -> Outcome:
            asked.append(function)
            return Outcome(why="no")

        monkeypatch.setattr("benchmarks.program.measure", pretend)
        first = next(iter(program.measurements))
        program.main(["--rounds", "2", "--only", first])
        assert asked == [program.measurements[first].function] * 2
        with pytest.raises(SystemExit):
            program.main(["--only", "nothing-of-this-name"])
        assert first in capsys.readouterr().err


class TestSmallRuns:
    """As little as possible of each program, for real."""

    def table(self, name: str, only: str, file: Path) -> str:
        SMALLER[name].main(["--quick", "--only", only, "--markdown", str(file)])
        text = file.read_text(encoding="utf-8")
        assert text.startswith(f"`python -m benchmarks {name} --rounds 1 --only {only}`")
        assert "absent" not in text.partition("| measurement |")[2], text
        well_formed(text)
        return text

    def test_start(self, tmp_path: Path) -> None:
        text = self.table("start", "python,cold-1,warm", tmp_path / "table.md")
        assert "| 5. a restarted trainer: first batch / one batch | " in text

    def test_recover(self, tmp_path: Path) -> None:
        assert "| a worker of four is killed: longest gap afterwards | " in self.table("recover", "worker,node", tmp_path / "table.md")

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems don't tell which memory is shared")
    def test_memory(self, tmp_path: Path) -> None:
        text = self.table("memory", "bare,feeder,base-light,held-shared,held", tmp_path / "table.md")
        assert "| feeder, worker: USS | " in text
        assert "| 4 workers and an array of 1 GiB: each its own / `shared` | " in text

    def test_scale(self) -> None:
        """Its figures come in steps of a hundredth of a second, and may be 0 in so short a run."""
        found = measure("benchmarks.scale:nodes", {"count": 2, "quick": True}, 100.0)
        assert found.why == "" and sorted(found.figures) == ["client", "node", "rate"] and found.figures["rate"] > 0

    @pytest.mark.slow
    @pytest.mark.keras
    @pytest.mark.timeout(300)
    @pytest.mark.parametrize("name", ["tensorflow", "torch"])
    def test_fit(self, name: str, tmp_path: Path) -> None:
        pytest.importorskip("keras")
        pytest.importorskip(name)
        SMALLER["fit"].main(["--quick", "--only", name, "--markdown", str(tmp_path / "table.md")])
        text = (tmp_path / "table.md").read_text(encoding="utf-8")
        assert "absent" not in text.partition("| measurement |")[2], text


class TestSpan:
    def test_the_first_seconds_do_not_count(self) -> None:
        span = Span(warm=2.0, measured=1.0)
        ends = [10.0, 11.0, 12.0, 12.5, 13.0]
        assert not span.over(ends[:-1]) and span.over(ends)
        assert span.per_batch(ends) == 500.0

    def test_batches_that_take_longer_than_all_of_it(self) -> None:
        span = Span(warm=0.2, measured=0.1)
        assert not span.over([0.0, 1.0, 2.0]) and span.over([float(i) for i in range(LEAST_STEPS)])
        assert span.per_batch([0.0, 0.1, 0.4]) == pytest.approx(300.0)

    def test_no_more_is_read_than_is_needed(self) -> None:
        batches = iter(range(100))
        assert len(Span(0.0, 0.0).until_over(batches)) == LEAST_STEPS and next(batches) == LEAST_STEPS


class TestCommit:
    @pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
    def test_reports_do_not_count_as_changes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        code, written, text = tmp_path / "node.py", tmp_path / "benchmarks" / "results" / "chart.png", tmp_path / "benchmarks" / "README.md"
        written.parent.mkdir(parents=True)
        for path in (code, written, text):
            path.write_text("before")
        for command in ("init -q", "add .", "-c user.name=a -c user.email=a@example.org -c commit.gpgsign=false commit -q -m first"):
            subprocess.run(["git", *command.split()], cwd=tmp_path, check=True, timeout=60)
        monkeypatch.setattr(report, "ROOT", tmp_path)
        clean = report.commit()
        assert clean and "dirty" not in clean
        for path in (written, text):
            path.write_text("after")
        assert report.commit() == clean
        code.write_text("after")
        assert report.commit() == f"{clean}-dirty"


class TestEverything:
    def test_the_goals_of_all_reports_are_one_table(self, tmp_path: Path) -> None:
        first = [Claim("7. x", [1.0], 2.0), Claim("1. y", [None], 2.0), Claim("1. no goal", [1.0]), Claim("of no number", [1.0], 1.0)]
        second = [Claim("3. z", [3.0], 2.0), Claim("7. x", [5.0], 2.0)]
        for name, made in (("compare", first), ("memory", second), ("quick", [Claim("2. of another program", [1.0], 1.0)])):
            text = markdown([claims_table(made)], ["a machine", f"commit of {name}", "load 5"], f"a command for {name}")
            (tmp_path / f"{name}.md").write_text(text, encoding="utf-8")
        table, how = everything.goals(tmp_path)
        assert [row[0] for row in table.rows] == ["1. y", "3. z", "7. x"]
        assert table.rows[0][1:] == ("absent", "at least 2 x", "not measured") and table.rows[2][1] == "5 x"
        assert how == ["`a command for compare`, commit of compare, load 5", "`a command for memory`, commit of memory, load 5"]

    def test_they_go_between_the_marks(self) -> None:
        text = f"before\n{everything.BEGIN}\nold\n{everything.END}\nafter\n"
        once = everything.spliced(text, "new\n")
        assert once == everything.spliced(once, "new") == f"before\n{everything.BEGIN}\n\nnew\n\n{everything.END}\nafter\n"
        with pytest.raises(ValueError, match="no <!-- goals"):
            everything.spliced("nothing", "new")
        assert everything.spliced(everything.README.read_text(encoding="utf-8"), "new")

    def test_each_program_writes_its_report(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: dict[str, list[str]] = {}
        for name in everything.PROGRAMS:

            def pretend(arguments: list[str], name: str = name) -> list[Table]:
                asked[name] = arguments
                table = claims_table([Claim(f"{len(asked)}. of {name}", [1.0], 2.0)])
                Path(arguments[3]).write_text(markdown([table], [], name), encoding="utf-8")
                return [table]

            monkeypatch.setattr(f"benchmarks.{name}.main", pretend)
        readme = tmp_path / "README.md"
        readme.write_text(f"{everything.BEGIN}\n{everything.END}\n", encoding="utf-8")
        everything.main(["--rounds", "5", "--out", str(tmp_path / "results"), "--readme", str(readme)])
        assert {name: Path(given[3]).name for name, given in asked.items()} == {name: f"{name}.md" for name in everything.PROGRAMS}
        assert all(given[:2] == ["--rounds", "5"] for given in asked.values())
        goals = (tmp_path / "results" / "goals.md").read_text(encoding="utf-8")
        assert goals in readme.read_text(encoding="utf-8") and "| 6. of recover | 1 x | at least 2 x | NO |" in goals


class TestSeeding:
    def test_what_is_not_installed_is_absent(self) -> None:
        found: Results = {name: [2.0, 4.0] for name in seeding.MEASUREMENTS}
        found["tensorflow"] = [None, None]
        rows = seeding.table(found).rows
        assert len(rows) == len(seeding.MEASUREMENTS) and {len(row) for row in rows} == {3}
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


def steps(**figures: float | None) -> dict[str, list[Outcome]]:
    """Two rounds of ``backend__way``, in milliseconds per step; None: absent."""
    absent = Outcome(why="not | installed")
    names = {name: name.replace("__", "/").replace("_", "-") for name in figures}
    return {names[name]: [Outcome({"step": step, "epoch": step / 10}) if step else absent] * 2 for name, step in figures.items()}


class TestGpu:
    def test_the_share_is_the_floor_over_the_step(self) -> None:
        found = steps(torch__floor=50.0, torch__feeder_1=300.0, torch__feeder_16=52.0, jax__floor=None, jax__in_process=400.0)
        goals, torch, jax = gpu.tables(found, {"torch": 50.0})
        assert goals.rows[0] == ("torch: the device's share, feeder with 16 workers", "96.2 %", "at least 95 %", "yes")
        assert torch.title == "torch" and torch.words == ["The model's step was measured as 50.0 ms."]
        assert [row[3] for row in torch.rows] == ["100", "16.7", "96.2"]
        assert jax.rows == [
            (gpu.WAYS["floor"].title, "absent: not / installed", "", "", ""),
            ("in process", "400", "40", "absent", "absent"),
        ]
        well_formed(markdown([goals, torch, jax], ["a machine"], "a command"))

    def test_without_a_gpu_it_says_so_in_one_line(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        for module in (gpu, gpu_training):
            monkeypatch.setattr(module, "SMI", ("no-such-program",))
        with pytest.raises(SystemExit) as ended:
            gpu.main([])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("there is no GPU here") and said.count("\n") == 1

    def test_what_is_no_way_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        for option in ("--only", "--backends"):
            with pytest.raises(SystemExit):
                gpu.main(["--device", "cpu", option, "nothing"])
            assert option in capsys.readouterr().err

    def test_what_nvidia_smi_says(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        script = tmp_path / "smi.py"
        script.write_text(
            "import sys, time\n"
            "if '-lms' in sys.argv:\n"
            "    print('[N/A]', '40', '60', sep='\\n', flush=True)\n"
            "    time.sleep(600)\n"
            "print('A Device, 570.1, 81559')\n"
        )
        for module in (gpu, gpu_training):
            monkeypatch.setattr(module, "SMI", (sys.executable, str(script)))
        assert gpu.gpus() == ["GPU: A Device, 570.1, 81559 MiB"]
        with gpu_training.sampled(True) as samples:
            until(lambda: samples() == [40.0, 60.0], "samples come")
        with gpu_training.sampled(False) as samples:
            assert samples() == []

    def test_a_failed_calibration_makes_its_rows_absent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str] = []

        def pretend(function: str, arguments: dict[str, object], limit: float, env: dict[str, str | None]) -> Outcome:
            asked.append(function)
            assert env["CUDA_VISIBLE_DEVICES"] == "1"
            return Outcome(why="torch 2 sees no GPU")

        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        monkeypatch.setattr(gpu, "measure", pretend)
        made = gpu.run(["torch/floor", "torch/feeder-16"], 2, gpu.SIZES["gpu"], False, 1.0, lambda text: None)
        assert asked == ["benchmarks.gpu_training:calibrate"]
        assert {row[1] for row in made[-1].rows} == {"absent: torch 2 sees no GPU"}

    def test_the_augmentation_is_as_slow_as_it_is_told(self) -> None:
        size = gpu.QUICK["cpu"]
        assert gpu_training.loops_beside(size, 0.0) == 0 < gpu_training.loops_beside(size, 0.5)
        x, y = sources.Augmented(**size.args)[3]
        assert (x.dtype.name, x.shape, y.dtype.name, y.shape) == ("float32", (8, 16, 16, 3), "float32", (8, 1))
        assert 0 <= x.min() < 0.1 and 0.9 < x.max() <= 1 and len(sources.Augmented(**size.args)) == size.steps
        assert (x == sources.Augmented(**size.args)[3][0]).all()

    @pytest.mark.slow
    @pytest.mark.keras
    @pytest.mark.timeout(240)
    def test_a_tiny_run(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        """Without a GPU, in this process but for the measurements."""
        pytest.importorskip("keras")
        pytest.importorskip("torch")
        file = tmp_path / "table.md"
        gpu.main(["--quick", "--device", "cpu", "--backends", "torch", "--only", "floor,feeder-1", "--markdown", str(file)])
        text = file.read_text(encoding="utf-8")
        assert text.startswith("`python -m benchmarks gpu --device cpu --backends torch --rounds 1 --only floor,feeder-1`\n")
        well_formed(text)
        assert "absent:" not in text and "no GPU is used" in text, text
        assert "| **feeder**, 1 worker | " in text
        assert "round 1 of 1: torch: **feeder**, 1 worker" in capfd.readouterr().err
