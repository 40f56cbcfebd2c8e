"""dev.py: the decisions it takes, without network and without making an environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import dev

SPACED = "my feeder \u4f8b"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository's root with the two files that a set-up depends on; its path holds a space and a non-Latin letter."""
    path = tmp_path / SPACED
    path.mkdir()
    (path / "pyproject.toml").write_bytes(b"[project]\nname = 'x'\n")
    (path / "constraints.txt").write_bytes(b"numpy==2\n")
    return path


class TestPython:
    @pytest.mark.parametrize("version", [(3, 10, 0), (3, 11, 7), (3, 12, 1), (3, 13, 9)])
    def test_supported(self, version: tuple[int, ...]) -> None:
        assert dev.python_problem(version, is_64bit=True, windows=False) is None

    @pytest.mark.parametrize(("version", "what"), [((3, 8, 18), "3.8 is too old"), ((3, 14, 0), "3.14 is too new"), ((4, 0, 0), "too new")])
    def test_refused_with_what_to_install(self, version: tuple[int, ...], what: str) -> None:
        problem = dev.python_problem(version, is_64bit=True, windows=False)
        assert problem is not None
        assert what in problem
        assert "3.10 to 3.13" in problem
        assert "python3.13 dev.py" in problem

    def test_windows_is_told_of_its_launcher(self) -> None:
        assert "py -3.13 dev.py" in (dev.python_problem((3, 9, 0), is_64bit=True, windows=True) or "")

    def test_32_bit_is_refused(self) -> None:
        assert "64-bit" in (dev.python_problem((3, 12, 0), is_64bit=False, windows=True) or "")

    def test_agrees_with_pyproject(self) -> None:
        text = (dev.ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert 'requires-python = ">={}.{}"'.format(*dev.OLDEST) in text
        assert 'Python :: {}.{}"'.format(*dev.NEWEST) in text
        assert f'Python :: {dev.NEWEST[0]}.{dev.NEWEST[1] + 1}"' not in text


class TestMissingVenv:
    def test_finds_the_first_that_is_missing(self) -> None:
        assert dev.missing_module(["json", "no_such_module_here", "venv"]) == "no_such_module_here"
        assert dev.missing_module(["json"]) is None

    @pytest.mark.parametrize(
        ("os_release", "cure"),
        [
            ('ID=debian\nVERSION_ID="12"\n', "apt install python3-venv (or python3.11-venv)"),
            ('NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\n', "apt install python3-venv"),
            ("ID=fedora\n", "dnf install python3"),
            ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', "zypper install python311-base"),
            ("ID=arch\n", "complete Python"),
            ("", "complete Python"),
        ],
    )
    def test_says_what_to_install(self, os_release: str, cure: str) -> None:
        message = dev.missing_module_message("ensurepip", (3, 11, 2), dev.linux_family(os_release))
        assert "ensurepip" in message
        assert cure in message

    def test_is_reported_before_anything_is_made(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        venv = root / ".venv"
        monkeypatch.setattr(dev, "ROOT", root)
        monkeypatch.setattr(dev, "VENV", venv)
        monkeypatch.setattr(dev, "STAMP", venv / "stamp.json")
        monkeypatch.setattr(dev, "missing_module", lambda: "ensurepip")
        # No Python there, whatever the real .venv looks like.
        monkeypatch.setattr(dev, "venv_program", lambda name, *args: venv / name)
        with pytest.raises(dev.Stop, match="lacks the module ensurepip"):
            dev.set_up(dev.Runner(verbose=False), [])
        assert not venv.exists()


class TestStamp:
    def key(self, root: Path, version: tuple[int, ...] = (3, 11, 7), extras: tuple[str, ...] = dev.EXTRAS) -> dict[str, str]:
        return dev.stamp_key(root, version, extras)

    def test_complete_and_unchanged_needs_nothing(self, root: Path) -> None:
        (root / "stamp").write_text(json.dumps(self.key(root)), encoding="utf-8")
        assert dev.next_step(dev.read_stamp(root / "stamp"), self.key(root), venv_is_there=True) == "nothing"

    @pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
    def test_changed_requirements_need_an_install(self, root: Path, name: str) -> None:
        before = self.key(root)
        with (root / name).open("ab") as file:
            file.write(b"# changed\n")
        assert dev.next_step(before, self.key(root), venv_is_there=True) == "install"

    def test_another_extra_needs_an_install(self, root: Path) -> None:
        assert dev.next_step(self.key(root), self.key(root, extras=("bench", "dev")), venv_is_there=True) == "install"

    def test_another_python_needs_a_rebuild(self, root: Path) -> None:
        assert dev.next_step(self.key(root), self.key(root, version=(3, 12, 1)), venv_is_there=True) == "rebuild"

    def test_a_moved_folder_needs_a_rebuild(self, root: Path) -> None:
        before = self.key(root)
        moved = root.rename(root.with_name("moved"))
        assert dev.next_step(before, self.key(moved), venv_is_there=True) == "rebuild"

    @pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe", b'{"files": "x"}'])
    def test_an_interrupted_or_broken_set_up_needs_a_rebuild(self, root: Path, content: bytes | None) -> None:
        if content is not None:
            (root / "stamp").write_bytes(content)
        assert dev.next_step(dev.read_stamp(root / "stamp"), self.key(root), venv_is_there=True) == "rebuild"

    def test_a_missing_python_needs_a_rebuild(self, root: Path) -> None:
        assert dev.next_step(self.key(root), self.key(root), venv_is_there=False) == "rebuild"

    def test_line_ends_do_not_matter(self, root: Path) -> None:
        before = self.key(root)
        (root / "constraints.txt").write_bytes(b"numpy==2\r\n")
        assert self.key(root) == before

    def test_extras_asked_for_once_stay(self, root: Path) -> None:
        extras = dev.wanted_extras(["bench"], {})
        assert extras == ["backends", "bench", "dev", "tensorflow", "torch", "zoo"]
        assert dev.wanted_extras([], self.key(root, extras=tuple(extras))) == extras
        assert dev.wanted_extras([], {}) == list(dev.EXTRAS)

    def test_light_stays_light_until_torch_is_asked_for(self, root: Path) -> None:
        light = dev.wanted_extras([], {}, light=True)
        assert light == ["backends", "dev", "tensorflow", "zoo"]
        stamp = self.key(root, extras=tuple(light))
        assert dev.wanted_extras([], stamp) == light
        full = dev.wanted_extras(["torch"], stamp)
        assert full == list(dev.EXTRAS)
        assert dev.wanted_extras([], self.key(root, extras=tuple(full))) == full

    def test_a_set_up_from_before_there_were_more_extras_gets_them(self, root: Path) -> None:
        stamp = {**self.key(root, extras=("dev", "tensorflow"))}
        del stamp["light"]
        wanted = dev.wanted_extras([], stamp)
        assert wanted == list(dev.EXTRAS)
        assert dev.next_step(stamp, self.key(root, extras=tuple(wanted)), venv_is_there=True) == "install"


class TestSetUp:
    """set_up() with a Runner that only notes what it would run."""

    @pytest.fixture
    def commands(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        ran: list[list[str]] = []

        def run_quietly(self: dev.Runner, command: list[str]) -> None:
            ran.append(command)
            if "venv" in command:
                python = dev.venv_program("python")
                python.parent.mkdir(parents=True)
                python.touch()

        monkeypatch.setattr(dev, "ROOT", root)
        monkeypatch.setattr(dev, "VENV", root / ".venv")
        monkeypatch.setattr(dev, "STAMP", root / ".venv" / "stamp.json")
        monkeypatch.setattr(dev, "venv_program", lambda name, *args: root / ".venv" / "bin" / name)
        monkeypatch.setattr(dev, "missing_module", lambda: None)
        monkeypatch.setattr(dev.Runner, "run_quietly", run_quietly)
        return ran

    def test_the_first_makes_and_installs_the_second_does_nothing(self, commands: list[list[str]], root: Path) -> None:
        dev.set_up(dev.Runner(verbose=False), [])
        assert [command[1:3] for command in commands] == [["-m", "venv"], ["-m", "pip"]]
        assert commands[0][-1] == str(root / ".venv")
        dev.set_up(dev.Runner(verbose=False), [])
        assert len(commands) == 2

    def test_light_leaves_torch_out_and_tells_the_tests(self, commands: list[list[str]]) -> None:
        for light in (True, False):  # the second finds a light one, and leaves it so
            runner = dev.Runner(verbose=False)
            dev.set_up(runner, [], light=light)
            assert commands[-1][-1] == ".[backends,dev,tensorflow,zoo]"
            assert runner.env[dev.LIGHT_VARIABLE] == "1"
        assert len(commands) == 2
        runner = dev.Runner(verbose=False)
        dev.set_up(runner, ["torch"])
        assert commands[-1][-1] == ".[{}]".format(",".join(dev.EXTRAS))
        assert dev.LIGHT_VARIABLE not in runner.env

    def test_half_made_is_made_anew(self, commands: list[list[str]], root: Path) -> None:
        dev.set_up(dev.Runner(verbose=False), [])
        (root / ".venv" / "stamp.json").unlink()
        left = root / ".venv" / "half-installed"
        left.touch()
        commands.clear()
        dev.set_up(dev.Runner(verbose=False), [])
        assert len(commands) == 2
        assert not left.exists()

    def test_a_failed_install_leaves_no_stamp(self, commands: list[list[str]], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        dev.set_up(dev.Runner(verbose=False), [])
        (root / "constraints.txt").write_bytes(b"numpy==3\n")

        def fail(self: dev.Runner, command: list[str]) -> None:
            raise dev.Stop("no network")

        monkeypatch.setattr(dev.Runner, "run_quietly", fail)
        with pytest.raises(dev.Stop):
            dev.set_up(dev.Runner(verbose=False), [])
        assert not dev.STAMP.exists()


class TestCommands:
    @pytest.mark.parametrize(
        ("windows", "end"), [(True, Path(SPACED, "Scripts", "feeder-server.exe")), (False, Path(SPACED, "bin", "feeder-server"))]
    )
    def test_layout_of_the_environment(self, windows: bool, end: Path) -> None:
        assert dev.venv_program("feeder-server", Path(SPACED), windows) == end

    def test_pip_is_pinned_and_its_paths_need_no_quoting(self) -> None:
        command = dev.pip_command("python", ["dev", "tensorflow"])
        assert command[-4:] == ["-c", "constraints.txt", "-e", ".[dev,tensorflow]"]

    @pytest.mark.parametrize(("cores", "spread"), [(1, []), (2, ["-n", "2"]), (64, ["-n", "4"])])
    def test_suite_is_spread_over_some_cores(self, cores: int, spread: list[str]) -> None:
        command = dev.test_command("python", ["-x"], cores)
        assert command[:3] == ["python", "-m", "pytest"]
        assert command[3:5] == (spread or ["-x"])
        assert command[-1] == "-x"

    @pytest.mark.parametrize("args", [["-n0"], ["-n", "3"], ["--numprocesses=3"], ["--pdb"], ["tests/test_dev.py::test_x"], ["-s"]])
    def test_suite_is_not_spread_where_the_user_chose(self, args: list[str]) -> None:
        assert dev.test_command("python", args, 8) == ["python", "-m", "pytest", *args]

    def test_lint_covers_the_packages(self) -> None:
        commands = dict(dev.lint_commands("python"))
        assert set(commands) == {"ruff check", "ruff format", "mypy", "mypy as on Windows", "architecture"}
        assert {"--strict", "feeder_wire", "feeder_server", "feeder_client", "dev.py"} <= set(commands["mypy"])

    def test_lint_goes_on_after_a_failure(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        codes = iter([0, 3, 2, 0, 0])
        monkeypatch.setattr(dev.Runner, "run", lambda self, command: next(codes))
        assert dev.lint(dev.Runner(verbose=False), "python") == 3
        assert "failed: ruff format, mypy" in capsys.readouterr().out

    def test_arguments_behind_the_command_are_handed_on(self) -> None:
        options = dev.parse(["--verbose", "test", "-k", "window", "--verbose", "-x"])
        assert (options.command, options.args, options.verbose) == ("test", ["-k", "window", "--verbose", "-x"], True)
        assert dev.parse(["demo", "--workers", "2"]).args == ["--workers", "2"]
        assert dev.parse(["chaos", "--minutes", "5"]).args == ["--minutes", "5"]
        assert dev.parse(["test-windows", "tests/wire", "-x"]).args == ["tests/wire", "-x"]
        assert dev.parse(["--with", "torch", "setup"]).extras == ["torch"]
        assert dev.parse(["--light", "test", "--light"]).light is True

    def test_the_suite_under_wine_is_for_linux(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(dev.sys, "platform", "win32")
        assert dev.main(["test-windows"]) == 1
        assert "On Windows itself the whole suite is: py dev.py test" in capsys.readouterr().err

    @pytest.mark.parametrize("argv", [[], ["nonsense"], ["lint", "--fix"], ["setup", "--verbose"]])
    def test_bad_usage_is_2(self, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            dev.main(argv)
        assert end.value.code == 2
        assert "usage: dev.py" in capsys.readouterr().err


class TestEnvironment:
    def test_programs_come_first_and_foreign_packages_are_out(self) -> None:
        parent = {"PATH": "/usr/bin", "PYTHONPATH": "/elsewhere", "PYTHONHOME": "/elsewhere", "HOME": "/home/u"}
        env = dev.child_environment(parent, Path("/v"), windows=False)
        assert env["PATH"] == str(Path("/v/bin")) + ":/usr/bin"
        assert env["VIRTUAL_ENV"] == str(Path("/v"))
        assert env["HOME"] == "/home/u"
        assert "PYTHONPATH" not in env
        assert "PYTHONHOME" not in env
        assert parent["PATH"] == "/usr/bin"

    def test_windows_spells_path_its_own_way(self) -> None:
        env = dev.child_environment({"Path": "C:\\Windows"}, Path("v"), windows=True)
        assert env["Path"] == str(Path("v", "Scripts")) + ";C:\\Windows"
        assert "PATH" not in env

    def test_no_path_at_all(self) -> None:
        assert dev.child_environment({}, Path("v"), windows=False)["PATH"] == str(Path("v", "bin"))


class TestChild:
    @pytest.mark.parametrize(
        ("returncode", "code"), [(0, 0), (1, 1), (5, 5), (-2, 130), (-9, 137), (-15, 143), (0xC000013A, 130), (0xC0000005, 1)]
    )
    def test_exit_code(self, returncode: int, code: int) -> None:
        assert dev.exit_code(returncode) == code

    def test_the_exit_code_of_the_child_is_returned(self) -> None:
        assert dev.Runner(verbose=False).run([sys.executable, "-c", "raise SystemExit(7)"]) == 7

    def test_output_is_shown_on_failure_only(self, capfd: pytest.CaptureFixture[str]) -> None:
        runner = dev.Runner(verbose=False)
        runner.run_quietly([sys.executable, "-c", "print('quiet')"])
        assert "quiet" not in capfd.readouterr().out
        with pytest.raises(dev.Stop, match="exit code 4"):
            runner.run_quietly([sys.executable, "-c", "print('the cause'); raise SystemExit(4)"])
        assert "the cause" in capfd.readouterr().out

    def test_verbose_shows_everything(self, capfd: pytest.CaptureFixture[str]) -> None:
        dev.Runner(verbose=True).run_quietly([sys.executable, "-c", "print('all of it')"])
        assert "all of it" in capfd.readouterr().out

    @pytest.mark.skipif(os.name == "nt", reason="a single process can't be sent Ctrl-C on Windows")
    def test_ctrl_c_waits_for_the_child(self) -> None:
        """The child cleans up for as long as it needs, and its exit code counts."""
        code = "import signal, sys; print(end='.', flush=True); signal.sigwait([signal.SIGUSR1]); sys.exit(9)"
        child = subprocess.Popen(
            [sys.executable, "-c", "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n" + code],
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        with child.stdout:
            child.stdout.read(1)
            runner = dev.Runner(verbose=False)
            interrupt = threading.Timer(0.1, signal.pthread_kill, [threading.get_ident(), signal.SIGINT])
            finish = threading.Timer(0.4, child.send_signal, [signal.SIGUSR1])
            interrupt.start()
            finish.start()
            assert runner._wait(child) == 9
            assert runner.interrupted == 1
            interrupt.join()
            finish.join()


class TestMain:
    def test_old_python_is_told_what_to_do(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(dev, "python_problem", lambda *args: "too old")
        assert dev.main(["test"]) == 1
        assert capsys.readouterr().err == "too old\n"

    @pytest.mark.parametrize(("error", "code", "text"), [(dev.Stop("do that"), 1, "do that"), (KeyboardInterrupt(), 130, "interrupted")])
    def test_ends_in_one_line(
        self, error: BaseException, code: int, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def run_command(options: object) -> int:
            raise error

        monkeypatch.setattr(dev, "run_command", run_command)
        monkeypatch.setattr(signal, "signal", lambda *args: None)
        assert dev.main(["setup"]) == code
        assert capsys.readouterr().err == text + "\n"

    def test_clean_removes_what_was_made(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dev, "ROOT", root)
        monkeypatch.setattr(dev, "VENV", root / ".venv")
        for folder in (".venv/bin", ".mypy_cache/3", "x.egg-info", "pkg/__pycache__"):
            (root / folder).mkdir(parents=True)
            (root / folder / "file").touch()
        assert dev.run_command(dev.parse(["clean"])) == 0
        assert sorted(path.name for path in root.iterdir()) == ["constraints.txt", "pkg", "pyproject.toml"]

    def test_runs_as_a_script_from_any_folder(self, tmp_path: Path) -> None:
        done = subprocess.run(
            [sys.executable, dev.__file__, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0
        assert "python dev.py demo" in done.stdout
