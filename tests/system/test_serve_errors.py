"""What can go wrong with `feeder-server serve`: its exit code, and one or two lines that say what to change."""

from __future__ import annotations

import re
import socket
import textwrap
from pathlib import Path

import pytest

from feeder_wire.security import make_key_files
from tests.serving import ANY_PORT, QUICK_RESTARTS, SOURCES, Serving, arenas, serve, workers_of


def refused(tmp_path: Path, *arguments: str, code: int, lines: int = 2, bind: str = ANY_PORT) -> str:
    """Runs it; asserts that it ends with `code`, and with at most so many lines of error, none of them of a traceback through feeder.

    Returns what the user is shown: stderr without the log.
    """
    before = arenas()
    with Serving(tmp_path, *arguments, "--bind", bind) as node:
        assert node.wait() == code, node.output
        assert node.stdout == ""
        shown = re.sub(r"^\d\d:\d\d:\d\d (INFO|WARNING) .*\n", "", node.stderr, flags=re.MULTILINE)
        assert len(shown.rstrip().splitlines()) <= lines, shown
        assert not re.search(r'File ".*feeder_(server|wire|client)', node.stderr), node.stderr
        assert arenas() == before
        return shown


def write(path: Path, code: str) -> None:
    path.write_text(textwrap.dedent(code), encoding="utf-8")


class TestUsage:
    """Exit code 2, and nothing is started. All of them are in tests/server/test_cli.py; here some, to the end of the process."""

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["augment.py:"], "write augment.py:NAME"),
            (["x.py:a", "y.py:b"], "have no names: write train=x.py:a val=y.py:b"),
            ([f"{SOURCES}:Numbers", "-a", "train.n=3"], "is for a target 'train'; there is 'default'"),
            ([f"{SOURCES}:Numbers", "--memory", "lots"], "'lots' is not a size: write for example 512MiB"),
            ([f"{SOURCES}:Numbers", "--workers", "0"], "--workers 0"),
            ([f"{SOURCES}:Numbers", "--keys", "."], "no .key_secret file"),
        ],
    )
    def test_what_can_not_work(self, tmp_path: Path, arguments: list[str], said: str) -> None:
        assert said in refused(tmp_path, *arguments, code=2)

    @pytest.mark.parametrize("bind", ["127.0.0.1:5555", "ipc:///tmp/x"])
    def test_what_is_no_endpoint(self, tmp_path: Path, bind: str) -> None:
        assert "write tcp://HOST:PORT" in refused(tmp_path, f"{SOURCES}:Numbers", code=2, bind=bind)

    @pytest.mark.parametrize("bind", ["tcp://0.0.0.0:0", "tcp://*:0"])
    def test_others_could_connect_and_there_are_no_keys(self, tmp_path: Path, bind: str) -> None:
        shown = refused(tmp_path, f"{SOURCES}:Numbers", code=2, bind=bind)
        assert "can be reached from other machines" in shown
        assert "--insecure" in shown

    def test_insecure_is_the_users_word(self, tmp_path: Path) -> None:
        with serve(tmp_path, f"{SOURCES}:Numbers", "--insecure", bind="tcp://0.0.0.0:0") as node:
            assert node.endpoint.startswith("tcp://0.0.0.0:")

    def test_half_of_the_keys(self, tmp_path: Path) -> None:
        make_key_files(tmp_path / "keys", "feeder")
        shown = refused(tmp_path, f"{SOURCES}:Numbers", "--keys", "keys", code=2)
        assert "--authorized-clients" in shown
        shown = refused(tmp_path, f"{SOURCES}:Numbers", "--authorized-clients", "keys", code=2)
        assert "--keys" in shown
        (tmp_path / "nobody").mkdir()
        shown = refused(tmp_path, f"{SOURCES}:Numbers", "--keys", "keys", "--authorized-clients", "nobody", code=2)
        assert "holds no *.key file" in shown


class TestEndpoint:
    """Exit code 4."""

    def test_the_port_is_in_use(self, tmp_path: Path) -> None:
        with serve(tmp_path, f"{SOURCES}:Numbers") as first:
            shown = refused(tmp_path, f"{SOURCES}:Numbers", code=4, bind=first.endpoint)
            assert f"{first.endpoint} is in use" in shown
            assert len(workers_of(first.pid)) == 1

    def test_the_port_is_in_use_by_something_else(self, tmp_path: Path) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            endpoint = f"tcp://127.0.0.1:{other.getsockname()[1]}"
            assert f"{endpoint} is in use" in refused(tmp_path, f"{SOURCES}:Numbers", code=4, bind=endpoint)

    def test_an_address_of_another_machine(self, tmp_path: Path) -> None:
        shown = refused(tmp_path, f"{SOURCES}:Numbers", "--insecure", code=4, bind="tcp://192.0.2.1:5555")
        assert "is not an address of this machine" in shown


class TestSource:
    """Exit code 3."""

    @pytest.mark.parametrize(
        ("target", "said"),
        [
            ("nowhere.py:x", "there is no file nowhere.py in"),
            ("augmnt.py:train", "did you mean 'augment.py'?"),
            ("no/such/folder.py:x", "the folder"),
            ("nomodule.anywhere:x", "there is no module 'nomodule'"),
            ("augment.py:trian", "did you mean 'train'?"),
            ("augment:nothing", "augment has no 'nothing'; it has: train"),
            ("json:x.y", "json has no 'x'"),
        ],
    )
    def test_something_is_missing(self, tmp_path: Path, target: str, said: str) -> None:
        write(tmp_path / "augment.py", "train = [1]\n")
        shown = refused(tmp_path, target, code=3)
        assert shown.startswith("feeder-server: error: ")
        assert said in shown

    def test_a_syntax_error(self, tmp_path: Path) -> None:
        write(tmp_path / "bad.py", "x = 1\ndef f(:\n    pass\n")
        shown = refused(tmp_path, "bad.py:f", code=3, lines=8)
        assert "SyntaxError" in shown.splitlines()[0]
        assert f'File "{tmp_path / "bad.py"}", line 2' in shown

    def test_an_error_at_import(self, tmp_path: Path) -> None:
        """The user's traceback alone, which begins in their file, though the error came up in a second one."""
        write(tmp_path / "outer.py", "from inner import value\n")
        write(tmp_path / "inner.py", "def fail():\n    return {}['key']\nvalue = fail()\n")
        shown = refused(tmp_path, "outer.py:value", "--workers", "2", code=3, lines=14)
        lines = shown.splitlines()
        assert lines[0].startswith("feeder-server: error: KeyError: 'key' (while outer.py was imported)")
        assert lines[2] == "Traceback (most recent call last):"
        assert [line.strip() for line in lines if line.strip().startswith("File")] == [
            f'File "{tmp_path / "outer.py"}", line 1, in <module>',
            f'File "{tmp_path / "inner.py"}", line 3, in <module>',
            f'File "{tmp_path / "inner.py"}", line 2, in fail',
        ]

    def test_a_module_that_is_missing_inside(self, tmp_path: Path) -> None:
        """Their file is there: what is missing is what it imports."""
        write(tmp_path / "outer.py", "import nomodule\n")
        shown = refused(tmp_path, "outer.py:x", code=3, lines=9)
        assert "ModuleNotFoundError: No module named 'nomodule'" in shown
        assert "import nomodule" in shown

    def test_an_error_while_it_is_built(self, tmp_path: Path) -> None:
        write(tmp_path / "src.py", "class S:\n    def __init__(self): raise OSError('no data here')\n")
        shown = refused(tmp_path, "src.py:S", code=3, lines=8)
        assert "OSError: no data here (while src.py:S was built)" in shown
        assert "line 2, in __init__" in shown

    def test_sys_exit_at_import(self, tmp_path: Path) -> None:
        write(tmp_path / "script.py", "import sys\nsys.exit(0)\n")
        shown = refused(tmp_path, "script.py:x", code=3, lines=8)
        assert "if __name__ == '__main__'" in shown

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["Numbers", "-a", "m=3"], "got an unexpected argument 'm'"),
            (["Numbers", "-a", "siez=3"], "did you mean 'size'?"),
            (["Holds"], "needs 'folder' (give -a folder=VALUE)"),
            (["SHAPES", "-a", "n=3"], "which isn't called, so it can't take the argument 'n'"),
            (["rich_batch", "-a", "i=1"], "which is one batch or a whole data set"),
            (["SOURCES"], "has no 'SOURCES'"),
            (["np"], "the module numpy"),
        ],
    )
    def test_the_wrong_thing_or_the_wrong_arguments(self, tmp_path: Path, arguments: list[str], said: str) -> None:
        """Interface: 3, for the source was found and could not be made; a list that takes no argument is bad usage, 2."""
        code = 2 if arguments[0] == "SHAPES" else 3
        assert said in refused(tmp_path, f"{SOURCES}:{arguments[0]}", *arguments[1:], code=code)

    def test_one_of_several(self, tmp_path: Path) -> None:
        """It is named."""
        shown = refused(tmp_path, f"train={SOURCES}:Numbers", f"val={SOURCES}:Numbres", code=3)
        assert "source 'val'" in shown
        assert "did you mean 'Numbers'?" in shown


class TestWorkers:
    """Exit code 5."""

    def test_they_keep_dying_at_import(self, tmp_path: Path) -> None:
        """A crash of the interpreter, not an exception: started again ever more slowly, five times in all, then given up."""
        write(tmp_path / "crash.py", "import os, sys\nprint('about to crash', file=sys.stderr)\nos._exit(66)\n")
        before = arenas()
        with Serving(tmp_path, "crash.py:x", "--workers", "1", "--bind", ANY_PORT, constants=QUICK_RESTARTS) as node:
            assert node.wait() == 5, node.output
            assert node.stdout == ""
            assert node.stderr.count("worker 0 ended: exit code 66; a new one starts in") == 4
            shown = node.stderr[node.stderr.index("feeder-server: error: ") :]
            first, *others = shown.splitlines()
            assert first.startswith("feeder-server: error: worker 0: 5 workers in a row died")
            assert "exit code 66" in first
            assert others == ["    about to crash"]
        assert arenas() == before
