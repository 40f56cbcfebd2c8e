"""What the user's code raises: at its batch, after all before it, with the user's own traceback; and the server goes on."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from feeder_client import FeederClient, SourceError, UnsupportedBatch
from tests.serving import SOURCES, serve
from tests.transport.conftest import Connect

FEEDER = re.compile(r'File ".*feeder_(server|wire|client)')


@pytest.mark.parametrize("source", ["broken", "broken_blocks"])
def test_an_error_comes_at_its_batch(connect_any: Connect, source: str) -> None:
    client = connect_any(source, prefetch=8)
    batches = iter(client)
    for i in range(4):
        assert int(next(batches)[1][0, 0]) == i
    with pytest.raises(SourceError) as caught:
        next(batches)
    assert isinstance(caught.value, ValueError)
    message = str(caught.value)
    assert message.startswith(f"batch 4 of epoch 0 of source {source!r}: ValueError: picture 4 is broken (in worker ")
    assert_user_traceback(message, "self.read(i)", 'raise ValueError(f"picture {i} is broken")')


def assert_user_traceback(message: str, *lines: str) -> None:
    """It starts in the user's file and shows the lines, and none of feeder's."""
    first = message.partition("Traceback (most recent call last):\n")[2].splitlines()[0]
    assert first.strip().startswith(f'File "{SOURCES}", line '), message
    assert not FEEDER.search(message), message
    for line in lines:
        assert line in message


def test_the_batches_after_it_can_still_be_had(connect: Connect) -> None:
    client = connect("broken")
    for _ in range(2):
        got = []
        for i in range(10):
            try:
                got.append(int(client[i][1][0, 0]))
            except ValueError:
                got.append(-1)
        assert got == [0, 1, 2, 3, -1, 5, 6, 7, 8, 9]


def test_the_server_goes_on_for_others(connect: Connect) -> None:
    first, second = connect("broken"), connect("broken")
    with pytest.raises(ValueError, match="picture 4"):
        list(first)
    with pytest.raises(ValueError, match="picture 4"):
        list(second)
    assert len(list(connect("numbers"))) == 20


def test_an_array_of_objects_is_refused_with_its_path(connect: Connect) -> None:
    client = connect("objects")
    assert client[1]["x"][1].tolist() == [1, 1]
    with pytest.raises(UnsupportedBatch, match=re.escape("batch['x'][1]")) as caught:
        client[2]
    assert "object" in str(caught.value)
    assert client[3]["x"][1].tolist() == [1, 1]


def test_what_is_no_ordinary_error_is_reported_too(connect: Connect) -> None:
    """SystemExit or KeyboardInterrupt in user code ends no worker, and an exception that can't be rebuilt still says its name."""
    client = connect("oddly")
    for i, name in ((1, "Odd: (7, 'cellar')"), (2, "SystemExit: 3"), (3, "KeyboardInterrupt"), (4, "StopIteration")):
        with pytest.raises(SourceError, match=re.escape(name)):
            client[i]
    assert [client[i] for i in (0, 5, 6)] == [0, 5, 6]


def test_an_error_in_a_stream(connect: Connect) -> None:
    """Both workers run a copy: each gives three items and then the error, which is no end of the pass."""
    client = connect("broken_stream")
    got: list[object] = []
    with pytest.raises(SourceError, match="item 3 is broken") as caught:
        got.extend(client)
    assert isinstance(caught.value, ValueError)
    assert_user_traceback(str(caught.value), 'raise ValueError(f"item {i} is broken")')
    assert set(got) <= {0, 1, 2}


def test_an_error_that_nobody_asks_for_harms_nobody(connect: Connect) -> None:
    """Batch 4 is made ahead and fails, and the trainer stops at 3."""
    client = connect("broken", prefetch=8)
    assert [int(client[i][1][0, 0]) for i in range(4)] == [0, 1, 2, 3]
    client.close()


def test_user_code_that_raises_feeders_errors(tmp_path: Path) -> None:
    """Only ours are passed on as they are; one that the user's code raises is the user's, with a traceback."""
    code = """
        from feeder_wire.errors import ConfigError
        class Mine(list):
            def __getitem__(self, i):
                raise ConfigError("mine")
        made = Mine([1, 2])
    """
    (tmp_path / "mine.py").write_text(textwrap.dedent(code), encoding="utf-8")
    with serve(tmp_path, "mine.py:made") as node, FeederClient(node.endpoint) as client:
        with pytest.raises(SourceError, match="ConfigError: mine") as caught:
            client[0]
        assert 'raise ConfigError("mine")' in str(caught.value)
