"""Errors that travelled: what is raised in the training process says the same, and is caught by the same except."""

from __future__ import annotations

import builtins
import inspect
import pickle
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeder_wire import errors
from feeder_wire.errors import (
    AuthenticationError,
    BatchTimeout,
    ConfigError,
    FeederError,
    NodeUnreachable,
    RemoteError,
    SourceError,
    WorkerCrashed,
    builtin_bases,
    rebuild,
)


class BadImage(ValueError):
    """An error of the user's."""


class Sly(StopIteration, KeyError):
    """Would end a loop in silence where it is raised."""


def remote(exc: BaseException, kind: str = "SourceError", trace: str = "") -> RemoteError:
    return RemoteError(kind, type(exc).__qualname__, builtin_bases(exc), str(exc), trace, "worker 3")


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = {
        word
        for line in (errors.__doc__ or "").splitlines()
        for word in line.replace("│", " ").replace("─", " ").split()[:2]
        if word.isidentifier()
    }
    classes = {c.__name__ for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)}
    assert classes == {c for c in classes if c in (errors.__doc__ or "")}
    assert {"FeederError"} <= drawn
    assert all(issubclass(getattr(errors, name), FeederError) for name in classes)
    assert issubclass(AuthenticationError, NodeUnreachable)


@pytest.mark.parametrize(
    ("original", "caught_as"),
    [
        (ValueError("x"), ValueError),
        (BadImage("x"), ValueError),
        (KeyError("x"), KeyError),
        (KeyError("x"), LookupError),
        (FileNotFoundError("x"), FileNotFoundError),
        (FileNotFoundError("x"), OSError),
        (ZeroDivisionError("x"), ArithmeticError),
        (MemoryError("x"), MemoryError),
        (ImportError("x"), ImportError),
        (RecursionError("x"), RuntimeError),
        (SyntaxError("x"), SyntaxError),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), UnicodeError),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), ValueError),
        (Sly("x"), LookupError),
        (AssertionError("x"), AssertionError),
        (StopIteration("x"), SourceError),
        (KeyboardInterrupt("x"), SourceError),
        (SystemExit(3), SourceError),
        (GeneratorExit("x"), SourceError),
    ],
)
def test_caught_as_what_it_was(original: BaseException, caught_as: type[BaseException]) -> None:
    error = rebuild(remote(original), "batch 17")
    assert isinstance(error, SourceError)
    assert isinstance(error, caught_as)
    assert type(error).__name__ == "SourceError"
    assert type(original).__qualname__ in str(error)
    assert str(original) in str(error)


@pytest.mark.parametrize("original", [StopIteration(), StopAsyncIteration(), Sly(), KeyboardInterrupt(), SystemExit(), GeneratorExit()])
def test_nothing_that_the_interpreter_acts_on_comes_out(original: BaseException) -> None:
    """A StopIteration would end the training's loop over the data, without an error."""
    error = rebuild(remote(original), "")
    assert not isinstance(error, (StopIteration, StopAsyncIteration, KeyboardInterrupt, SystemExit, GeneratorExit))
    assert isinstance(error, Exception)


def every_builtin_error() -> list[type[BaseException]]:
    return [c for c in vars(builtins).values() if isinstance(c, type) and issubclass(c, BaseException)]


@pytest.mark.parametrize("cls", every_builtin_error(), ids=lambda c: c.__name__)
def test_every_built_in_error_can_come(cls: type[BaseException]) -> None:
    names = tuple(c.__name__ for c in cls.__mro__ if c is not object)
    text = "first line\n'second'"
    error = rebuild(RemoteError("SourceError", cls.__name__, names, text, "Traceback ...\n", "worker 1"), "batch 2")
    assert str(error) == f"batch 2: {cls.__name__}: {text} (in worker 1)\n\nTraceback ..."
    assert isinstance(error, SourceError)
    with pytest.raises(SourceError) as caught:
        raise error
    assert text in "".join(traceback.format_exception_only(caught.type, caught.value))


def test_a_key_error_s_traceback_keeps_its_lines() -> None:
    """KeyError shows the repr of its argument: one long line with \\n in it."""
    error = rebuild(remote(KeyError("label"), trace="Traceback:\n  line 1\n  line 2"), "batch 3 of epoch 1")
    assert str(error).splitlines() == ["batch 3 of epoch 1: KeyError: 'label' (in worker 3)", "", "Traceback:", "  line 1", "  line 2"]


def test_one_class_for_each_kind() -> None:
    first, second = (rebuild(remote(ValueError(text)), "") for text in "ab")
    assert type(first) is type(second)
    assert type(first) is not type(rebuild(remote(KeyError("a")), ""))


@pytest.mark.parametrize(
    "kind", ["ConfigError", "SourceNotFound", "UnsupportedBatch", "DivergentSource", "WorkerCrashed", "BatchTimeout", "VersionMismatch"]
)
def test_errors_of_feeder_s_own_stay_what_they_are(kind: str) -> None:
    error = rebuild(RemoteError(kind, kind, ("Exception",), "what to change", "", ""), "source 'train'")
    assert type(error) is getattr(errors, kind)
    assert str(error) == "source 'train': what to change"


@pytest.mark.parametrize("kind", ["", "Exception", "SystemExit", "ValueError", "object", "FeederError", "ClosedError", "__class__", "os"])
def test_a_peer_can_t_name_any_class_it_likes(kind: str) -> None:
    assert type(rebuild(RemoteError(kind, "x", (), "", ""), "")) is SourceError


@pytest.mark.parametrize("name", ["print", "open", "object", "int", "exec", "__import__", "Ellipsis", "", "no such", "os.system"])
def test_only_exceptions_are_mixed_in(name: str) -> None:
    assert type(rebuild(RemoteError("SourceError", "x", (name,), "m", ""), "")) is SourceError


texts = st.text(max_size=30)


@settings(deadline=None, database=None)
@given(
    st.builds(RemoteError, texts, texts, st.lists(texts | st.sampled_from(dir(builtins)), max_size=5).map(tuple), texts, texts, texts),
    texts,
)
def test_whatever_comes_is_an_error_to_raise(error: RemoteError, context: str) -> None:
    made = rebuild(error, context)
    assert isinstance(made, FeederError)
    assert error.message in str(made)
    assert error.traceback.rstrip() in str(made)


def test_a_traceback_only_where_there_is_one() -> None:
    assert str(rebuild(RemoteError("WorkerCrashed", "WorkerCrashed", (), "died 3 times", ""), "")) == "died 3 times"
    assert isinstance(rebuild(RemoteError("WorkerCrashed", "x", ("ValueError",), "", ""), ""), WorkerCrashed)
    assert not isinstance(rebuild(RemoteError("BatchTimeout", "x", ("ValueError",), "", ""), ""), ValueError)


def test_names_of_built_in_bases() -> None:
    assert builtin_bases(BadImage()) == ("ValueError", "Exception", "BaseException")
    assert builtin_bases(FileNotFoundError()) == ("FileNotFoundError", "OSError", "Exception", "BaseException")
    assert builtin_bases(ConfigError()) == ("Exception", "BaseException")


def test_plain_errors_can_be_pickled() -> None:
    """Test runners and loggers send them between processes of their own."""
    error = pickle.loads(pickle.dumps(BatchTimeout("batch 3 took too long")))
    assert type(error) is BatchTimeout
    assert str(error) == "batch 3 took too long"
