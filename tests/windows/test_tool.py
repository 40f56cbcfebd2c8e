"""What can be checked of the tool without Wine: pins, paths, the list of tests that are left out, the closing line."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import pytest

from tests.windows import not_under_wine, packages, plugin, run, setup, wine

ROOT = Path(__file__).resolve().parents[2]


class TestPins:
    def test_every_package_has_a_version_in_the_constraints(self) -> None:
        pins = packages.pinned(packages.constraints_of(ROOT))
        assert [pin.partition("==")[0] for pin in pins] == sorted(packages.TESTED)

    def test_a_line_for_another_python_is_passed_over(self) -> None:
        text = 'a==1; python_version < "3.11"\na==2; python_version >= "3.11"  # why\nb==3\n'
        assert packages.pinned(text, ("b", "a")) == ["a==2", "b==3"]

    def test_a_condition_that_it_can_not_judge_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="can't judge"):
            packages.pinned('a==1; sys_platform == "linux"\n', ("a",))

    def test_a_package_without_a_version_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="no version for b"):
            packages.pinned("a==1\n", ("a", "b"))

    def test_what_feeder_needs_is_among_them(self) -> None:
        """All that `pip install` would bring on Windows: it is installed without asking the index."""
        needs = {"numpy", "pyzmq", "msgpack", "msgpack-numpy", "cloudpickle", "click", "rich", "colorama"}
        assert needs <= set(packages.TESTED)


class TestPaths:
    def test_the_cache_is_where_the_user_says(self, tmp_path: Path) -> None:
        assert wine.cache_folder({"FEEDER_WINDOWS_CACHE": str(tmp_path)}) == tmp_path

    def test_else_it_is_in_the_users_cache(self, tmp_path: Path) -> None:
        assert wine.cache_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "feeder-windows"
        assert wine.cache_folder({"HOME": str(tmp_path)}) == tmp_path / ".cache" / "feeder-windows"

    def test_never_in_the_repository(self) -> None:
        assert ROOT not in wine.cache_folder().parents

    def test_as_windows_sees_them(self) -> None:
        assert wine.windows_path(Path("/")).startswith("Z:")
        assert wine.windows_path(Path("/home/jürgen müller/x")).endswith("\\home\\jürgen müller\\x")

    def test_a_windows_process_gets_nothing_that_is_meant_for_another_python(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("PYTHONPATH", "PIP_INDEX_URL", "FEEDER_SHM_DIR", "CI", "TMPDIR"):
            monkeypatch.setenv(name, "x")
        env = wine.Wine(tmp_path).environment(PYTHONIOENCODING="utf-8")
        assert not {"PYTHONPATH", "PIP_INDEX_URL", "FEEDER_SHM_DIR", "CI", "TMPDIR"} & set(env)
        assert env["PYTHONIOENCODING"] == "utf-8"
        assert env["WINEPREFIX"] == str(tmp_path / "prefix")


class TestArguments:
    def test_the_suite_is_spread_over_two_processes(self, tmp_path: Path) -> None:
        given = run.pytest_arguments(["-x"], tmp_path, cores=8)
        assert given[given.index("--basetemp") + 1] == wine.windows_path(tmp_path / "t")
        assert given[-1] == "-x"
        assert given[given.index("-n") + 1] == "2"

    @pytest.mark.parametrize("chosen", ["-n0", "tests/wire/test_directories.py::TestSweep"])
    def test_but_not_where_the_user_chose(self, tmp_path: Path, chosen: str) -> None:
        assert "--dist" not in run.pytest_arguments([chosen], tmp_path, cores=8)


class TestGroups:
    def test_every_file_of_tests_is_in_one(self) -> None:
        """Or it would not be run there, and nobody would notice."""
        named = [path for part in run.groups(ROOT) for path in part]
        assert len(named) == len(set(named))
        files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")]
        assert not [file for file in files if sum(file == path or file.startswith(path + "/") for path in named) != 1]
        assert all((ROOT / path).exists() for path in named)

    @pytest.mark.parametrize(("arguments", "named"), [([], False), (["-k", "window", "-x"], False), (["-x", "tests/wire"], True)])
    def test_only_without_paths(self, arguments: list[str], named: bool) -> None:
        assert run.paths_in(arguments) is named


class TestWithoutWine:
    def test_is_said_loudly_and_is_not_success(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def need_wine(say: object) -> None:
            raise wine.Unavailable("Wine is not installed, and this system has no apt-get")

        monkeypatch.setattr(run, "need_wine", need_wine)
        monkeypatch.setenv("FEEDER_WINDOWS_CACHE", str(tmp_path))
        assert run.main([]) == run.SKIPPED
        assert "SKIPPED, NOTHING WAS TESTED ON WINDOWS: Wine is not installed" in capsys.readouterr().out
        assert list(tmp_path.iterdir()) == []


class TestWithoutANetwork:
    def test_what_is_there_is_not_downloaded_again(self) -> None:
        files = ["pip-25.0-py3-none-any.whl", "msgpack_numpy-0.4.8-py2.py3-none-any.whl", "numpy-2.4.1-cp313-cp313-win_amd64.whl"]
        wanted = ["pip", "msgpack==1.1.2", "msgpack-numpy==0.4.8", "numpy==2.4.10"]
        assert setup.to_download(files, wanted) == (["msgpack==1.1.2", "numpy==2.4.10"], [files[2]])
        assert setup.to_download(files, ["pip", "msgpack-numpy==0.4.8", "numpy==2.4.1"]) == ([], [])

    @pytest.mark.parametrize(
        ("said", "error"),
        [
            ("Could not find a version that satisfies the requirement numpy==9 (from versions: 2.4.0, 2.4.1)", wine.SetupFailed),
            (
                "WARNING: Retrying ...\nCould not find a version that satisfies the requirement numpy==9 (from versions: none)",
                wine.Unavailable,
            ),
            ("ERROR: Could not install packages due to an OSError: HTTPSConnectionPool: Max retries exceeded", wine.Unavailable),
        ],
    )
    def test_nothing_can_be_downloaded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, error: type[Exception]) -> None:
        """That is no failure of feeder's, and what was set up before stays. A version that doesn't exist is one."""

        def pip(*arguments: str) -> None:
            raise wine.SetupFailed(said)

        monkeypatch.setattr(setup, "_pip", pip)
        there = tmp_path / "prefix" / "there"
        there.mkdir(parents=True)
        with pytest.raises(error, match="Could not"):
            setup.set_up(wine.Wine(tmp_path), lambda text: None)
        assert there.is_dir()


@pytest.mark.skipif(sys.platform == "win32", reason="test-windows runs on Linux")
class TestTimeLimit:
    def test_is_a_failure_in_words(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        ended = []

        def run_part(machine: wine.Wine, part: list[str], temporary: Path) -> tuple[int, dict[str, str]]:
            if "tests/b" in part:
                try:
                    threading.Event().wait(60)
                finally:
                    ended.append(part)
            return 0, {"passed": "3", "windows": "Windows-10", "python": "CPython 3.13.2"}

        monkeypatch.setattr(run, "run_part", run_part)
        monkeypatch.setattr(run, "groups", lambda root: [["tests/a"], ["tests/b"], ["tests/c", "tests/d"]])
        monkeypatch.setattr(run, "everything", lambda arguments, folder: run.run_tests(wine.Wine(folder), arguments, folder))
        assert run.main(["--minutes", "0.01", "-x"]) == run.FAILED
        said = capsys.readouterr().out.splitlines()
        assert said[-2].startswith("test-windows: 3 passed in 0.0 min")
        assert said[-1] == "test-windows: FAILED: it is not done within 0.01 minutes. Not done: -x tests/b; -x tests/c tests/d"
        assert len(ended) == 1

    def test_does_not_outlive_what_it_is_around(self) -> None:
        before = signal.getsignal(signal.SIGALRM)
        with run.time_limit(1.0):
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0 and signal.getsignal(signal.SIGALRM) is before


class TestLeftOut:
    def test_each_has_a_reason_and_is_a_single_test(self) -> None:
        assert not set(not_under_wine.REASONS) & set(not_under_wine.TO_SAVE_TIME)
        for name, reason in {**not_under_wine.REASONS, **not_under_wine.TO_SAVE_TIME}.items():
            assert "::" in name
            assert (ROOT / name.partition("::")[0]).is_file(), name
            assert len(reason) > 10

    def test_all_cases_of_a_test_or_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plugin, "REASONS", {"t.py::a": "no a", "t.py::b[1]": "no b 1"})
        monkeypatch.delenv(plugin.ALL, raising=False)
        assert [plugin.reason_for(name) for name in ("t.py::a[x]", "t.py::a", "t.py::b[1]", "t.py::b[2]")] == [
            "no a",
            "no a",
            "no b 1",
            None,
        ]

    def test_what_saves_time_runs_when_all_are_wanted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plugin, "REASONS", {"t.py::a": "no a"})
        monkeypatch.setattr(plugin, "TO_SAVE_TIME", {"t.py::b[1]": "slow"})
        monkeypatch.delenv(plugin.ALL, raising=False)
        assert [plugin.reason_for(name) for name in ("t.py::a", "t.py::b[1]", "t.py::b[2]")] == ["no a", "slow", None]
        monkeypatch.setenv(plugin.ALL, "1")
        assert [plugin.reason_for(name) for name in ("t.py::a", "t.py::b[1]")] == ["no a", None]

    def test_a_name_that_no_test_has_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plugin, "REASONS", {"t.py::a": "no a", "u.py::gone": "no more"})
        monkeypatch.setattr(plugin, "TO_SAVE_TIME", {})
        assert plugin.unknown({"t.py::a[x]", "u.py::here"}) == ["u.py::gone"]
        assert plugin.unknown({"t.py::a[x]"}) == [], "of files that were not collected nothing is known"


def test_the_closing_line() -> None:
    machine = {"windows": "Windows-10", "python": "CPython 3.13.2"}
    assert (
        run.summary([{**machine, "passed": 7, "failed": 0, "skipped": 2}, {**machine, "passed": 3}], 90)
        == "10 passed, 2 skipped in 1.5 min on Windows-10 (Wine), CPython 3.13.2"
    )


def test_what_each_windows_python_runs_first_can_be_compiled() -> None:
    """A mistake in it would only be printed, by each of them."""
    compile(setup._MENDS, "sitecustomize.py", "exec")
