"""`feeder-server status` on a real node: while it loads, while it works, and without leaving anything behind."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from feeder_client import FeederClient
from feeder_server.report import Report
from feeder_server.status import Visitor
from feeder_wire import frames
from feeder_wire import messages as m
from feeder_wire.security import make_key_files
from tests.serving import COMMAND, SOURCES, Running, Serving, free_port, serve, until


def status(folder: Path, endpoint: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "status", endpoint, *options]
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", timeout=60, check=False)


def seen(endpoint: str) -> Report:
    with Visitor(endpoint, timeout=20) as visitor:
        return visitor.look()


@contextmanager
def loading(folder: Path) -> Iterator[tuple[Serving, str]]:
    """A node whose workers sit in the import of a source until there is a file ``go``."""
    code = f"from tests.sources import Numbers, hold\nhold({str(folder)!r}, 'import')\nmade = Numbers(5)\n"
    (folder / "slow.py").write_text(code, encoding="utf-8")
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with Serving(folder, "slow.py:made", "-w", "2", "-b", endpoint, env={"PYTHONPATH": str(SOURCES.parents[1])}) as node:
        yield node, endpoint
        (folder / "go").touch()


class TestWhatItSays:
    def test_all_there_is(self, tmp_path: Path) -> None:
        with serve(tmp_path, f"train={SOURCES}:Epochs", f"val={SOURCES}:counted", workers=2) as node:
            with FeederClient(node.endpoint, "train") as client, FeederClient(node.endpoint, "val") as val:
                list(client)
                assert next(iter(val)) == 0
                said = until(lambda: (r := seen(node.endpoint)).sources[0].outcome and r, lambda: str(seen(node.endpoint)))
        assert (said.endpoint, said.workers, said.workers_up, said.restarts, said.clients) == (node.endpoint, 2, 2, 0, 2)
        assert said.batches >= 13 and 0 < said.up_seconds < 100
        train, val_source = said.sources
        assert (train.name, train.kind, train.num_batches, train.stateful, train.outcome) == ("train", "indexed", 12, True, "parallel")
        assert "the copies of source 'train' agree" in train.outcome_text
        assert train.batch_lines[0].split() == ["batch[0]", "int"]
        assert (val_source.kind, val_source.num_batches, val_source.outcome) == ("stream", None, "stream")
        assert val_source.batch_lines == ("batch  int",), "of a stream it is known once somebody has asked for a batch"
        assert "shard_index" in val_source.notes[0]

    def test_for_people_and_for_programs(self, tmp_path: Path) -> None:
        with serve(tmp_path, f"{SOURCES}:Numbers") as node:
            until(lambda: seen(node.endpoint).sources[0].batch_lines, "a batch is described")
            said = status(tmp_path, node.endpoint)
            assert (said.returncode, said.stderr) == (0, "")
            assert "1 of 1 up, none was restarted" in said.stdout
            assert "batch[0]  float32 (4, 8)  0.128 kB" in said.stdout
            assert "one worker: one worker makes everything" in said.stdout
            assert "\x1b" not in said.stdout and max(map(len, said.stdout.splitlines())) <= 80
            said = status(tmp_path, node.endpoint, "--json")
            assert (said.returncode, said.stdout.count("\n")) == (0, 1)
            found = json.loads(said.stdout)
            assert set(found) == set(Report.__slots__)
            assert found["sources"][0]["num_batches"] == 20

    def test_a_worker_that_was_restarted(self, tmp_path: Path) -> None:
        with serve(tmp_path, f"{SOURCES}:Exits", "-a", f"folder={tmp_path}", workers=2) as node:
            with FeederClient(node.endpoint) as client:
                list(client)
            until(lambda: (r := seen(node.endpoint)).restarts == 1 and r.workers_up == 2, lambda: str(seen(node.endpoint)))


class TestWhen:
    def test_while_the_workers_load(self, tmp_path: Path) -> None:
        with loading(tmp_path) as (node, endpoint):
            until(lambda: len(list(tmp_path.glob("at-import-*"))) == 2, lambda: f"both import: {node.output}")
            said = seen(endpoint)
            assert (said.workers_up, said.state, said.sources[0].kind) == (0, "loading default", "")
            text = status(tmp_path, endpoint).stdout
            assert "0 of 2 up" in text and "being loaded" in text
            assert node.stdout == ""

    def test_while_a_worker_is_busy(self, tmp_path: Path) -> None:
        with serve(tmp_path, f"{SOURCES}:Holds", "-a", f"folder={tmp_path}", "-a", "at=4") as node:
            with FeederClient(node.endpoint, prefetch=8) as client:
                passing = iter(client)
                next(passing)
                until(lambda: list(tmp_path.glob("at-4-*")), "the worker is at batch 4")
                said = seen(node.endpoint)
                assert said.under_way >= 1 and said.clients == 1
                (tmp_path / "go").touch()
                assert list(passing)[-1] == 29

    def test_it_leaves_nothing_behind_and_no_line_in_the_log(self, tmp_path: Path) -> None:
        with serve(tmp_path, f"{SOURCES}:Numbers") as node:
            for _ in range(3):
                assert seen(node.endpoint).clients == 0
            with FeederClient(node.endpoint) as client:
                assert len(list(client)) == 20
                assert seen(node.endpoint).clients == 1
            until(lambda: seen(node.endpoint).clients == 0, "the client has left")
            node.stop()
        assert node.stderr.count(" connected") == 1 and node.stderr.count(" left") == 1
        assert "status" not in node.stderr

    def test_many_questions_in_one_message_have_one_answer(self, tmp_path: Path) -> None:
        """Or a peer could have megabytes made by sending bytes."""
        with serve(tmp_path, f"{SOURCES}:Numbers") as node, Visitor(node.endpoint, timeout=20) as visitor:
            visitor._socket.send(frames.pack([m.Look()] * 1000 + [m.Ping(7)]))
            got: list[Any] = []
            until(lambda: _more(visitor, got) or any(isinstance(x, m.Pong) for x in got), "the node answers")
            visitor._socket.send(frames.pack([m.Ping(8)]))
            until(lambda: _more(visitor, got) or any(isinstance(x, m.Pong) and x.number == 8 for x in got), "the node answers again")
            assert sum(isinstance(x, m.Status) for x in got) == 1


def _more(visitor: Visitor, got: list[Any]) -> None:
    while visitor._socket.poll(0):
        got += visitor._unpack(visitor._socket.recv_multipart())


class TestWatch:
    @pytest.mark.parametrize("options", [["--json"], []], ids=["json", "text"])
    def test_until_ctrl_c(self, tmp_path: Path, options: list[str]) -> None:
        with serve(tmp_path, f"{SOURCES}:Numbers") as node:
            with Running([*COMMAND, "status", node.endpoint, "--watch", *options], tmp_path, {"PYTHONUNBUFFERED": "1"}) as watching:
                until(lambda: watching.stdout.count("up_seconds" if options else "feeder-server 0") >= 2, lambda: watching.output)
                watching.signal("SIGINT")
                assert watching.wait() == 0
            assert watching.stderr == ""
            if options:
                looks = [json.loads(line) for line in watching.stdout.splitlines()]
                assert looks[1]["up_seconds"] > looks[0]["up_seconds"]

    def test_until_the_node_ends(self, tmp_path: Path) -> None:
        with serve(tmp_path, f"{SOURCES}:Numbers") as node:
            with Running([*COMMAND, "status", node.endpoint, "--watch", "--json"], tmp_path, {"PYTHONUNBUFFERED": "1"}) as watching:
                until(lambda: watching.stdout, lambda: watching.output)
                node.stop()
                assert watching.wait() == 4
            assert watching.stderr.startswith(f"feeder-server: error: the server at {node.endpoint} has ended: ")
            assert watching.stderr.count("\n") == 1


class TestKeys:
    @pytest.fixture
    def locked(self, tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
        make_key_files(tmp_path / "server")
        make_key_files(tmp_path / "clients", "me")
        make_key_files(tmp_path / "others", "stranger")
        with serve(tmp_path, f"{SOURCES}:Numbers", "--keys", "server", "--authorized-clients", "clients") as node:
            yield lambda *options: status(tmp_path, node.endpoint, *options)

    def test_who_is_let_in(self, locked: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        for keys in (("clients/me.key_secret", "server/feeder.key"), ("clients", "server")):
            said = locked("--keys", keys[0], "--server-key", keys[1])
            assert (said.returncode, said.stderr) == (0, "")
            assert "1 of 1 up" in said.stdout

    @pytest.mark.parametrize(
        ("options", "code", "words"),
        [
            ([], 4, "wants keys: give --keys"),
            (["--keys", "others", "--server-key", "server"], 4, "refused the key of --keys"),
            (["--keys", "clients", "--server-key", "others/stranger.key"], 4, "has another key than --server-key says"),
            (["--keys", "clients"], 2, "belong together"),
            (["--server-key", "server"], 2, "belong together"),
            (["--keys", "clients/me.key", "--server-key", "server"], 2, "holds no secret key"),
            (["--keys", "nowhere", "--server-key", "server"], 2, "can't read the key file"),
        ],
    )
    def test_who_is_not(self, locked: Callable[..., subprocess.CompletedProcess[str]], options: list[str], code: int, words: str) -> None:
        said = locked(*options, "--timeout", "20")
        assert (said.returncode, said.stdout) == (code, "")
        assert words in said.stderr and said.stderr.count("\n") == 1

    def test_keys_where_there_are_none(self, tmp_path: Path) -> None:
        make_key_files(tmp_path / "keys")
        with serve(tmp_path, f"{SOURCES}:Numbers") as node:
            said = status(tmp_path, node.endpoint, "--keys", "keys", "--server-key", "keys")
        assert said.returncode == 4 and "has no keys: leave out" in said.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["127.0.0.1:5555"], 2, "write tcp://HOST:PORT"),
        (["tcp://127.0.0.1:0"], 2, "use the port that the server printed"),
        (["tcp://127.0.0.1:1", "--timeout", "0"], 2, "--timeout 0"),
        (["tcp://127.0.0.1:1", "--timeout", "nan"], 2, "--timeout nan"),
        (["tcp://127.0.0.1:1", "--timeout", "0.2"], 4, "nothing answers at tcp://127.0.0.1:1 (tried for 0.2 s"),
    ],
)
def test_what_can_not_work(tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    said = status(tmp_path, *arguments)
    assert (said.returncode, said.stdout) == (code, "")
    assert words in said.stderr and said.stderr.count("\n") == 1
