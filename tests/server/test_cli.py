"""The command line: what it makes of its arguments, what it says, and the code it exits with."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from feeder_server import cli as cli_module
from feeder_server import serve as serve_module
from feeder_server.cli import Exit, cli, exit_code
from feeder_server.config import ServeConfig
from feeder_server.cores import usable_cores
from feeder_wire.errors import (
    AuthenticationError,
    BatchTimeout,
    ConfigError,
    DivergentSource,
    EndpointError,
    FeederError,
    NodeUnreachable,
    ProtocolError,
    SourceError,
    SourceNotFound,
    UnsupportedBatch,
    VersionMismatch,
    WorkerCrashed,
)
from feeder_wire.security import load_pair, load_public, make_key_files

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run() -> Callable[..., Result]:
    """Runs the command line in this process."""
    return lambda *args: CliRunner().invoke(cli, [str(a) for a in args], prog_name="feeder-server")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[ServeConfig, bool]]:
    """What would have been served."""
    calls: list[tuple[ServeConfig, bool]] = []
    monkeypatch.setattr(serve_module, "run", lambda config, verbose: calls.append((config, verbose)))
    return calls


class TestServe:
    @pytest.fixture
    def config(self, run: Callable[..., Result], served: list[tuple[ServeConfig, bool]]) -> Callable[..., ServeConfig]:
        """Runs ``serve`` with these arguments and returns the configuration it made."""

        def make(*args: Any) -> ServeConfig:
            result = run("serve", *args)
            assert result.exit_code == 0, result.output
            return served.pop()[0]

        return make

    def test_one_target_is_called_default(self, config: Callable[..., ServeConfig]) -> None:
        made = config("augment.py:train")
        assert [str(s.target) for s in made.sources] == ["augment.py:train"]
        assert made == ServeConfig(sources=made.sources, workers=usable_cores())
        assert made.sources[0].name == "default"

    def test_several_with_names_and_arguments(self, config: Callable[..., ServeConfig]) -> None:
        made = config("train=mypkg.data:Train", "val=mypkg.data:Val", "-a", "batch_size=32", "--arg", "val.shuffle=false")
        assert [(s.name, s.target.args) for s in made.sources if s.target] == [
            ("train", {"batch_size": 32}),
            ("val", {"batch_size": 32, "shuffle": False}),
        ]

    def test_all_options(self, config: Callable[..., ServeConfig]) -> None:
        numbers = [
            "-w",
            3,
            "--seed",
            9,
            "--memory",
            "2GiB",
            "--max-retries",
            0,
            "--threads",
            4,
            "--batch-timeout",
            "2.5",
            "--drain-timeout",
            "3",
        ]
        made = config("a.py:b", "-b", "tcp://127.0.0.1:0", *numbers, "--single", "--gpu", "--no-hedge")
        assert (made.bind, made.workers, made.seed, made.memory, made.max_retries) == ("tcp://127.0.0.1:0", 3, 9, 2 << 30, 0)
        assert (made.single, made.gpu, made.threads, made.batch_timeout) == (True, True, 4, 2.5)
        assert (made.hedge, made.drain_timeout) == (False, 3.0)

    def test_as_many_workers_as_are_of_use(self, config: Callable[..., ServeConfig]) -> None:
        made = config("a.py:b", "-w", "auto")
        assert (made.workers, made.autoscale) == (usable_cores(), True)

    def test_keys(self, config: Callable[..., ServeConfig], tmp_path: Path) -> None:
        make_key_files(tmp_path / "keys")
        make_key_files(tmp_path / "clients", "laptop")
        made = config("a.py:b", "-b", "tcp://0.0.0.0:5555", "--keys", tmp_path / "keys", "--authorized-clients", tmp_path / "clients")
        assert made.keys == load_pair(tmp_path / "keys")
        assert made.authorized == {load_public(tmp_path / "clients" / "laptop.key")}

    def test_insecure_and_verbose(self, run: Callable[..., Result], served: list[tuple[ServeConfig, bool]]) -> None:
        assert run("serve", "a.py:b", "-b", "tcp://*:5555", "--insecure", "-v").exit_code == 0
        assert served[0][0].insecure
        assert served[0][1] is True

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            (["a.py"], "names no object in a.py: write a.py:NAME"),
            (["a.py:b", "c.py:d"], "have no names: write train="),
            (["a.py:b", "-a", "size"], "argument 'size' has no value"),
            (["a.py:b", "-b", "5555"], "is not an endpoint: write tcp://HOST:PORT"),
            (["a.py:b", "-b", "tcp://0.0.0.0:5555"], "say --insecure if the network is your own"),
            (["a.py:b", "-w", "many"], "--workers 'many': a whole number is needed, or auto"),
            (["a.py:b", "-w", "auto", "--single"], "--single, which means one worker for each source"),
            (["a.py:b", "-w", "0"], "--workers 0: a whole number from 1 to 4096 is needed"),
            (["a.py:b", "--seed", "-1"], "--seed -1"),
            (["a.py:b", "--memory", "much"], "'much' is not a size: write for example 512MiB or 2GiB"),
            (["a.py:b", "--memory", "1KiB"], "give at least 1MiB"),
            (["a.py:b", "--keys", "gone"], "can't read the key file gone"),
            (["a.py:b", "--authorized-clients", "gone"], "gone is not a folder with the public keys"),
        ],
    )
    def test_mistakes_are_one_line_that_says_what_to_change(
        self, run: Callable[..., Result], served: list[tuple[ServeConfig, bool]], args: list[str], says: str
    ) -> None:
        result = run("serve", *args)
        assert result.exit_code == Exit.USAGE
        assert result.stdout == ""
        assert result.stderr.startswith("feeder-server: error: ")
        assert says in result.stderr
        assert result.stderr.count("\n") == 1
        assert not served

    @pytest.mark.parametrize("args", [[], ["a.py:b", "--threads", "many"], ["a.py:b", "--colour"], ["a.py:b", "--bind"]])
    def test_mistakes_that_click_finds(self, run: Callable[..., Result], args: list[str]) -> None:
        result = run("serve", *args)
        assert result.exit_code == Exit.USAGE
        assert "Error: " in result.stderr
        assert "Traceback" not in result.stderr


class TestWords:
    def test_help_ends_in_examples_and_codes(self, run: Callable[..., Result]) -> None:
        for flag in ("-h", "--help"):
            result = run(flag)
            assert result.exit_code == 0
            assert "feeder-server serve augment.py:train --workers 4\n" in result.stdout
            assert result.stdout.rstrip().endswith("4 the endpoint could not be bound or reached, 5 workers keep dying.")

    @pytest.mark.parametrize("command", sorted(cli.commands))
    def test_every_command_explains_itself(self, run: Callable[..., Result], command: str) -> None:
        result = run(command, "--help")
        assert result.exit_code == 0
        assert f"Usage: feeder-server {command}" in result.stdout

    def test_serve_has_the_options_of_the_interface(self, run: Callable[..., Result]) -> None:
        said = run("serve", "--help").stdout
        names = "arg bind workers seed memory max-retries gpu threads keys authorized-clients insecure"
        assert [name for name in names.split() if f"--{name} " not in said] == []

    def test_version(self, run: Callable[..., Result]) -> None:
        assert re.fullmatch(r"feeder-server, version \d+\.\d+\.\S+\n", run("--version").stdout)

    def test_a_target_without_a_command(self, run: Callable[..., Result]) -> None:
        result = run("augment.py:train")
        assert result.exit_code == Exit.USAGE
        assert "'augment.py:train' is a target, not a command: write 'feeder-server serve augment.py:train'" in result.stderr

    def test_an_unknown_command(self, run: Callable[..., Result]) -> None:
        result = run("sevre")
        assert result.exit_code == Exit.USAGE
        assert "No such command 'sevre'" in result.stderr

    def test_examples_in_the_help_can_be_parsed(
        self, run: Callable[..., Result], served: list[tuple[ServeConfig, bool]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        make_key_files(tmp_path / "keys")
        make_key_files(tmp_path / "clients", "a")
        examples = re.findall(r"^  feeder-server (serve .*)$", cli_module.EXAMPLES, re.M)
        assert len(examples) >= 3
        for line in examples:
            assert run(*line.split()).exit_code == 0, line
        assert len(served) == len(examples)


class TestKeygen:
    def test_makes_a_pair_and_says_which_is_which(self, run: Callable[..., Result], tmp_path: Path) -> None:
        result = run("keygen", tmp_path / "my keys", "--name", "laptop")
        assert result.exit_code == 0
        assert result.stdout.splitlines() == [
            f"{tmp_path / 'my keys' / 'laptop.key'}  public: give it to the other side",
            f"{tmp_path / 'my keys' / 'laptop.key_secret'}  secret: keep it here",
        ]
        load_pair(tmp_path / "my keys")

    def test_never_overwrites(self, run: Callable[..., Result], tmp_path: Path) -> None:
        assert run("keygen", tmp_path).exit_code == 0
        before = load_pair(tmp_path)
        result = run("keygen", tmp_path)
        assert result.exit_code == Exit.USAGE
        assert "is there already; remove it first, or choose another --name" in result.stderr
        assert load_pair(tmp_path) == before


class TestExitCodes:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (ConfigError, 2),
            (SourceNotFound, 3),
            (SourceError, 3),
            (UnsupportedBatch, 3),
            (DivergentSource, 3),
            (EndpointError, 4),
            (NodeUnreachable, 4),
            (AuthenticationError, 4),
            (WorkerCrashed, 5),
            (BatchTimeout, 3),
            (VersionMismatch, 4),
            (ProtocolError, 4),
            (FeederError, 2),
        ],
    )
    def test_of_errors(self, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, error: type[FeederError], code: int) -> None:
        assert exit_code(error("x")) == code

        def fail(config: ServeConfig, verbose: bool) -> None:
            raise error("what happened\nand what to change")

        monkeypatch.setattr(serve_module, "run", fail)
        result = run("serve", "a.py:b")
        assert result.exit_code == code
        assert result.stderr == "feeder-server: error: what happened\nand what to change\n"

    def feeder(self, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
        """Runs the real thing."""
        env = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONIOENCODING="utf-8")
        command = [sys.executable, "-m", "feeder_server.cli", *args]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=90, check=False)

    def serve(self, folder: Path, target: str, *args: str) -> subprocess.CompletedProcess[str]:
        return self.feeder(folder, "serve", target, "-b", "tcp://127.0.0.1:0", "-w", "1", *args)

    def test_0(self, tmp_path: Path) -> None:
        done = self.feeder(tmp_path, "keygen", "größe")
        assert (done.returncode, done.stderr) == (0, "")

    def test_2(self, tmp_path: Path) -> None:
        done = self.serve(tmp_path, "nothing")
        assert done.returncode == 2
        assert done.stdout == ""
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("target", ["gone.py:train", "data.py:gone", "gone.pkg:train"])
    def test_3_nothing_there(self, tmp_path: Path, target: str) -> None:
        (tmp_path / "data.py").write_text("train = [1]\n")
        done = self.serve(tmp_path, target)
        assert done.returncode == 3
        error = done.stderr[done.stderr.index("feeder-server: error: ") :]
        assert "gone" in error
        assert "Traceback" not in done.stderr
        assert error.count("\n") <= 2

    def test_3_the_users_code_raises(self, tmp_path: Path) -> None:
        (tmp_path / "data.py").write_text("def train():\n    raise ValueError('größe ✓')\n", encoding="utf-8")
        done = self.serve(tmp_path, "data.py:train")
        assert done.returncode == 3
        trace = done.stderr[done.stderr.index("Traceback") :]
        assert re.match(r'Traceback \(most recent call last\):\n  File ".*data\.py", line 2, in train', trace), (
            "it starts in the user's code"
        )
        assert "ValueError: größe ✓" in trace
        assert "feeder_server" not in trace

    def test_4_a_taken_port(self, tmp_path: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            done = self.feeder(tmp_path, "serve", "a.py:b", "-w", "1", "-b", f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        assert done.returncode == 4
        assert "feeder-server: error: " in done.stderr
        assert str(taken.fileno()) == "-1"
        assert "Traceback" not in done.stderr

    @pytest.mark.slow
    def test_5_workers_that_keep_dying(self, tmp_path: Path) -> None:
        (tmp_path / "data.py").write_text("import os\ndef train():\n    print('going down', flush=True)\n    os._exit(7)\n")
        done = self.serve(tmp_path, "data.py:train")
        assert done.returncode == 5
        assert "5 workers in a row died" in done.stderr
        assert "going down" in done.stderr[done.stderr.index("feeder-server: error: ") :]
        assert "Traceback" not in done.stderr
