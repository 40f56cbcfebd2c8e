"""What the documentation says is so: links resolve, commands and options exist, and docs/protocol.md agrees with the wire."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import feeder_client
from feeder_client import FeederClient, callbacks
from feeder_server import cli
from feeder_server.report import Report, SourceReport
from feeder_wire import client_frames, codec, frames, messages, tree, worker_frames
from feeder_wire.errors import RemoteError

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docker").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
)
CHECKED_FOR_COMMANDS = ["README.md", *(name for name in DOCUMENTS if name.startswith("docs/"))]
# Options of other programs (docker, pip, systemd, git) that the documents name, and feeder's own that aren't there yet.
FOREIGN = {"--shm-size", "--ipc", "--rm", "--stop-timeout", "--init"}
PLANNED_OPTIONS = {"--join"}
PLANNED_COMMANDS = {"preview", "bench"}
PRINTED = {"ready"}  # "feeder-server ready at ..." is what it says, not a command


@cache
def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def anchors_of(name: str) -> set[str]:
    """Returns the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_code(text_of(name)), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands_and_options() -> dict[str, set[str]]:
    """Returns the options of each command of feeder-server, as its --help shows them."""
    found: dict[str, set[str]] = {"": {"--help", "-h", "--version"}}
    for name, command in cli.cli.commands.items():
        with click.Context(command, info_name=name) as context:
            found[name] = set(re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", command.get_help(context)))
    return found


@pytest.mark.parametrize("name", DOCUMENTS)
class TestDocuments:
    def test_links_resolve(self, name: str) -> None:
        bad = []
        for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", without_code(text_of(name))):
            if re.match(r"[a-z]+://", target):
                continue
            path, _, anchor = target.partition("#")
            file = (ROOT / name).parent / path if path else ROOT / name
            if not file.exists() or (anchor and anchor not in anchors_of(file.resolve().relative_to(ROOT).as_posix())):
                bad.append(target)
        assert not bad

    def test_files_named_exist(self, name: str) -> None:
        """A path in backquotes that begins with a folder of this repository is a file of it."""
        named = re.findall(r"`((?:feeder_\w+|tests|docs|docker|examples)/[\w./-]*\w\.(?:py|md|yaml|sh))`", text_of(name))
        assert not [path for path in named if not (ROOT / path).exists()]

    def test_code_blocks_are_closed(self, name: str) -> None:
        assert len(re.findall(r"^\s*```", text_of(name), flags=re.M)) % 2 == 0


class TestCommandLine:
    @pytest.mark.parametrize("name", CHECKED_FOR_COMMANDS)
    def test_commands_and_their_options_exist(self, name: str) -> None:
        known = commands_and_options()
        bad = []
        # In code only: in prose, words that follow the name are words.
        for line in re.findall(r"(?:^|`)feeder-server[ \t]+([a-z]+\b[^`|\n]*)", text_of(name), flags=re.M):
            command, _, rest = line.partition(" ")
            if command in known:
                options = re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", rest)
                bad += [f"{command} {option}" for option in options if option not in known[command]]
            elif command not in PLANNED_COMMANDS | PRINTED:
                bad.append(command)
        assert not bad

    @pytest.mark.parametrize("name", CHECKED_FOR_COMMANDS)
    def test_options_exist(self, name: str) -> None:
        known = set().union(*commands_and_options().values()) | FOREIGN | PLANNED_OPTIONS
        assert not set(re.findall(r"`(--[a-z][a-z-]*)", text_of(name))) - known

    def test_what_is_planned_is_not_there(self) -> None:
        """When it comes, the documents have to say so."""
        known = commands_and_options()
        assert not PLANNED_COMMANDS & set(known)
        assert not PLANNED_OPTIONS & known["serve"]

    @pytest.mark.parametrize(
        ("command", "heading"), [("serve", "Options of `serve`"), ("check", "Options of `check`"), ("status", "Status")]
    )
    def test_every_option_is_described(self, command: str, heading: str) -> None:
        options = {option for option in commands_and_options()[command] if option.startswith("--")} - {"--help"}
        text = section("docs/operations.md", heading)
        assert not {option for option in options if f"`{option}`" not in text}

    def test_every_field_of_a_report_is_described(self) -> None:
        """In the tables of docs/operations.md, and no others."""
        text = section("docs/operations.md", "Status")
        rows = re.findall(r"^\| (`[a-z_]+`(?:, `[a-z_]+`)*) \| (?:text|number|integer|true or false|list)", text, flags=re.M)
        named = [name for row in rows for name in re.findall(r"[a-z_]+", row)]
        assert sorted(named) == sorted(f.name for kind in (Report, SourceReport) for f in fields(kind))

    def test_exit_codes(self) -> None:
        rows = dict(re.findall(r"^\| (\d+) \| (.+?) \|$", section("docs/operations.md", "Signals and exit codes"), flags=re.M))
        assert {int(code) for code in rows} == {int(code) for code in cli.Exit}


class TestPython:
    def test_errors(self) -> None:
        rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text_of("README.md"), flags=re.M)
        named = {name for row in rows for name in re.findall(r"\w+", row)}
        errors = {name for name, value in vars(feeder_client).items() if isinstance(value, type) and issubclass(value, Exception)}
        assert named >= errors - {"FeederError", "DivergentSource"}
        assert {name for name in named if name.endswith(("Error", "Crashed", "Timeout"))} <= errors

    def test_arguments(self) -> None:
        """The table of arguments in the FAQ is complete, and has no others."""
        rows = re.findall(r"^\| (`\w+=?`(?:, `\w+=?`)*) \|", section("docs/faq.md", "Which arguments are there?"), flags=re.M)
        named = {name for row in rows for name in re.findall(r"\w+", row)}
        real = {*inspect.signature(FeederClient.__init__).parameters, *inspect.signature(FeederClient.local).parameters, "keras", "pin"}
        assert named == real - {"self", "options"}

    def test_what_is_planned_is_not_there(self) -> None:
        assert not hasattr(callbacks, "FeederMonitor")
        assert not {"bind"} & set(inspect.signature(FeederClient.__init__).parameters)


def test_the_map_of_the_house_is_complete() -> None:
    """Each file of the packages stands in a table of docs/architecture.md, and each that stands there exists."""
    rows = re.findall(r"^\| ((?:`\w+\.py`(?:, )?)+) \|", section("docs/architecture.md", "Files"), flags=re.M)
    named = [name for row in rows for name in re.findall(r"`(\w+\.py)`", row)]
    files = [path.name for package in ("feeder_wire", "feeder_server", "feeder_client") for path in (ROOT / package).glob("[!_]*.py")]
    assert sorted(named) == sorted(files)


def section(name: str, heading: str) -> str:
    """Returns the text under a heading, up to the next one of its level or a higher one."""
    found = re.search(rf"^(#+) {re.escape(heading)}$(.*?)(?=^\1 |^# |\Z)", text_of(name), flags=re.M | re.S)
    assert found, f"{name} has no heading {heading!r}"
    return found[2]


def message_rows() -> dict[str, tuple[int, list[str]]]:
    """Returns what the tables of docs/protocol.md say of each message: its code and the names of its fields."""
    found = {}
    for code, name, listed in re.findall(r"^\| (\d+) \| `([A-Z]\w+)` \| ([^|]*)\|[^|]*\|$", text_of("docs/protocol.md"), flags=re.M):
        # Also the codec's tags stand in such a table; what isn't the name of a message is told apart by its capitals.
        if not name.isupper():
            assert name not in found, f"{name} stands there twice"
            found[name] = int(code), re.findall(r"`(\w+)`", listed)
    return found


def hex_blocks() -> list[bytes]:
    blocks = re.findall(r"^```hex\n(.*?)^```$", text_of("docs/protocol.md"), flags=re.M | re.S)
    return [bytes.fromhex(" ".join(line.partition(";")[0] for line in block.splitlines())) for block in blocks]


class TestProtocol:
    def test_every_message_with_its_code_and_fields(self) -> None:
        registries = (client_frames.TO_NODE, client_frames.TO_CLIENT, worker_frames.TO_WORKER, worker_frames.FROM_WORKER)
        real = {made.__name__: (code, [f.name for f in fields(made)]) for registry in registries for code, made in registry.items()}
        assert message_rows() == real

    def test_messages_stand_under_their_direction(self) -> None:
        for heading, registry in (("Client to node", client_frames.TO_NODE), ("Node to client", client_frames.TO_CLIENT)):
            named = set(re.findall(r"^\| \d+ \| `(\w+)`", section("docs/protocol.md", heading), flags=re.M))
            assert named == {made.__name__ for made in registry.values()}

    def test_limits(self) -> None:
        rows = re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", section("docs/protocol.md", "Limits"), flags=re.M)
        assert len(rows) == 10
        for name, value in rows:
            assert int(value) == getattr(frames if name == "MAX_FRAME" else messages, name), name

    def test_fields_of_an_error(self) -> None:
        assert re.findall(r"^\| `(\w+)` \|", section("docs/protocol.md", "Errors"), flags=re.M) == [f.name for f in fields(RemoteError)]

    def test_name_of_a_block(self) -> None:
        assert f"`{messages.BLOCK_NAME.pattern}`" in text_of("docs/protocol.md")

    def test_tags_of_the_codec(self) -> None:
        rows = re.findall(r"^\| (\d+) \| `([A-Z_]+)` \|", section("docs/protocol.md", "Batches as bytes"), flags=re.M)
        assert [int(tag) for tag, _ in rows] == list(range(15))
        assert all(getattr(tree, name) == int(tag) for tag, name in rows)

    def test_the_worked_example(self) -> None:
        """The batch, its head, its payload and the frame are what the code makes of each other, both ways."""
        source = re.search(r"^```python\n(\(np\.array.*?)^```$", text_of("docs/protocol.md"), flags=re.M | re.S)
        assert source
        batch = eval(source[1], {"np": np})
        head, payload, frame = hex_blocks()
        encoded = codec.encode(batch)
        assert encoded.head == head
        assert bytes(encoded.to_bytes()) == payload
        inline = messages.Inline(bytes(range(16)), 2, 5, head, payload, 0.25)
        assert frames.pack([inline]) == frame
        assert frames.unpack(frame, client_frames.TO_CLIENT) == [inline]
        x, info, rest = decoded(head, payload)
        np.testing.assert_array_equal(x, batch[0], strict=True)
        np.testing.assert_array_equal(info["label"], [3])
        assert info["name"] == "cat"
        assert rest is None

    def test_sizes_named_in_the_example(self) -> None:
        head, payload, frame = hex_blocks()
        text = section("docs/protocol.md", "A worked example")
        assert f"Its head, {len(head)} bytes" in text
        assert f"Its payload, {len(payload)} bytes" in text
        assert f"this frame of {len(frame)} bytes" in text


def decoded(head: bytes, payload: bytes) -> Any:
    data = codec.aligned_empty(len(payload))
    data[:] = np.frombuffer(payload, np.uint8)
    return codec.decode(head, data)
