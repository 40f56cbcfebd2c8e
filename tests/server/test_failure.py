from __future__ import annotations

import os
import pathlib
import sys
import textwrap

import pytest

from feeder_server import failure
from feeder_server.source import build
from feeder_wire.errors import ConfigError, RemoteError, SourceError, SourceNotFound, UnsupportedBatch, rebuild


def user_code(tmp_path: pathlib.Path, text: str) -> dict[str, object]:
    """Run `text` as the user's file."""
    path = tmp_path / "augment.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    names: dict[str, object] = {"__name__": "augment"}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    return names


def failing(factory: object) -> BaseException:
    """What came out of a factory that feeder called."""
    with pytest.raises(SourceError) as caught:
        build(factory, {}, shard=None, label="augment.py:train")
    cause = caught.value.__cause__
    assert cause is not None
    return cause


def test_the_traceback_starts_in_the_users_code(tmp_path: pathlib.Path) -> None:
    names = user_code(
        tmp_path,
        """
        def inner(): raise ValueError("bad image")
        def train(): inner()
        """,
    )
    exc = failing(names["train"])
    found = failure.describe(exc, where="worker 2")
    assert (found.kind, found.type_name, found.message, found.where) == ("SourceError", "ValueError", "bad image", "worker 2")
    assert found.builtins[:2] == ("ValueError", "Exception")
    lines = found.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "augment.py" in lines[1]
    assert "in train" in lines[1]
    assert "feeder_server" not in found.traceback
    assert lines[-1] == "ValueError: bad image"


def test_causes_and_contexts_come_along(tmp_path: pathlib.Path) -> None:
    names = user_code(
        tmp_path,
        """
        class Broken(Exception):
            pass
        def train():
            try:
                try:
                    {}["key"]
                finally:
                    1 / 0
            except ZeroDivisionError as e:
                raise Broken("outer") from e
        """,
    )
    found = failure.describe(failing(names["train"]))
    assert found.type_name == "augment.Broken"
    for text in ("KeyError: 'key'", "ZeroDivisionError", "During handling", "direct cause", "augment.Broken: outer"):
        assert text in found.traceback
    assert "feeder_server" not in found.traceback


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are newer")
def test_groups_and_notes(tmp_path: pathlib.Path) -> None:
    names = user_code(
        tmp_path,
        """
        def train():
            inner = ValueError("one")
            inner.add_note("look at file 7")
            raise ExceptionGroup("several", [inner, KeyError("two")])
        """,
    )
    found = failure.describe(failing(names["train"]))
    for text in ("several", "ValueError: one", "look at file 7", "KeyError: 'two'"):
        assert text in found.traceback


def test_an_exception_that_can_not_be_printed(tmp_path: pathlib.Path) -> None:
    names = user_code(
        tmp_path,
        """
        class Nasty(Exception):
            def __str__(self): raise RuntimeError("no text")
            def __repr__(self): raise RuntimeError("no text either")
            @property
            def __notes__(self): raise RuntimeError("nor notes")
        def train(): raise Nasty()
        """,
    )
    found = failure.describe(failing(names["train"]))
    assert "text can't be made" in found.message
    assert "Nasty" in found.traceback
    assert "augment.py" in found.traceback


def test_sizes_are_bounded_and_text_is_clean(tmp_path: pathlib.Path) -> None:
    names = user_code(tmp_path, "def train(): raise ValueError('a' * 10_000_000 + '\\ud800ä' * 1000 + 'the end')")
    found = failure.describe(failing(names["train"]))
    assert len(found.message.encode()) <= failure.MESSAGE_BYTES
    assert len(found.traceback.encode()) <= failure.TRACEBACK_BYTES
    assert found.traceback.startswith("Traceback")
    assert "bytes left out" in found.traceback
    assert found.traceback.rstrip().endswith("the end")
    assert found.message.endswith("the end")
    names = user_code(tmp_path, "def train(): raise ValueError('ä' * 100_000)")
    assert len(failure.describe(failing(names["train"])).traceback.encode()) <= failure.TRACEBACK_BYTES


def test_deep_recursion(tmp_path: pathlib.Path) -> None:
    names = user_code(tmp_path, "def train(): train()")
    found = failure.describe(failing(names["train"]))
    assert found.type_name == "RecursionError"
    assert "more times" in found.traceback


def test_user_error_travels_as_its_parts(tmp_path: pathlib.Path) -> None:
    names = user_code(tmp_path, "def train(): raise KeyError('image')")
    with pytest.raises(KeyError) as caught:
        build(names["train"], {}, shard=None, label="augment.py:train")
    error = caught.value
    assert isinstance(error, SourceError)
    assert "KeyError: 'image' (while augment.py:train was built)" in str(error)
    assert str(error).count("Traceback") == 1
    remote = failure.describe(error, where="worker 1")
    assert remote.type_name == "KeyError"
    assert remote.where == "worker 1"
    again = rebuild(remote, "source 'train'")
    assert isinstance(again, KeyError)
    assert str(again).count("Traceback") == 1
    assert str(again).startswith("source 'train': KeyError: 'image' (while augment.py:train was built) (in worker 1)\n\nTraceback")


@pytest.mark.parametrize("cls", [ConfigError, SourceNotFound, UnsupportedBatch])
def test_errors_of_our_own_keep_kind_and_lose_the_traceback(cls: type[Exception]) -> None:
    found = failure.describe(cls("leaf 0"))
    assert (found.kind, found.message, found.traceback) == (cls.__name__, "leaf 0", "")
    assert failure.user_error(cls("leaf 0"), "while").args == ("leaf 0",)


def test_a_feeder_error_that_the_users_code_raised_is_theirs(tmp_path: pathlib.Path) -> None:
    names = user_code(
        tmp_path,
        """
        from feeder_wire.errors import NodeUnreachable
        def train(): raise NodeUnreachable("tcp://nowhere")
        """,
    )
    found = failure.describe(failing(names["train"]))
    assert found.kind == "SourceError"
    assert found.type_name == "feeder_wire.errors.NodeUnreachable"
    assert "augment.py" in found.traceback


def test_a_fault_of_feeders_keeps_its_frames() -> None:
    try:
        failure._cut(None, 3)  # type: ignore[arg-type]
    except AttributeError as exc:
        found = failure.describe(exc.with_traceback(exc.__traceback__.tb_next if exc.__traceback__ else None))
    assert f"feeder_server{os.sep}failure.py" in found.traceback


def test_kind_is_the_callers() -> None:
    assert failure.describe(ValueError("x"), kind="WorkerCrashed").kind == "WorkerCrashed"
    assert isinstance(failure.describe(SystemExit(3)), RemoteError)
