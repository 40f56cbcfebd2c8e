"""How an exception of the user's code is put into words that can travel.

The reader is a person whose training has just stopped. What they get is their own traceback: it starts in their file, not in the
machinery that called it, and comes with everything that Python would have printed below that (causes, contexts, notes, carets).
"""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from feeder_server.target import did_you_mean
from feeder_wire import errors as wire_errors
from feeder_wire.errors import FeederError, RemoteError, builtin_bases, rebuild

TRACEBACK_BYTES = 64 * 1024
MESSAGE_BYTES = 8 * 1024

_FEEDER = tuple(os.path.dirname(os.path.abspath(name)) + os.sep for name in (__file__, wire_errors.__file__))
_IMPORT_MACHINERY = ("<frozen importlib", "<frozen runpy", "<frozen zipimport")
_IMPORTLIB = os.sep + os.path.join("importlib", "__init__.py")
_MODULE_SEEDS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "module_seeds.py")  # stands between the importer and the module


def describe(exc: BaseException, kind: str = "SourceError", where: str = "") -> RemoteError:
    """Turn an exception into data.

    An error that feeder itself raised (a `SourceNotFound`, or a `SourceError` that `user_error` made) is passed on as what it is:
    its message has been written for the user, and a traceback through feeder would only hide it.

    Args:
        exc: what was caught, with its traceback.
        kind: name of the feeder error to raise on arrival, for an exception of the user's.
        where: who failed, for example ``"worker 2"``.

    Returns:
        A description whose strings are valid UTF-8 and of bounded size, whatever the exception holds. Never raises.
    """
    known = getattr(exc, "__dict__", {}).get("_feeder_remote")
    if isinstance(known, RemoteError):
        return replace(known, where=where)
    own = isinstance(exc, FeederError) and _raised_by_feeder(exc)
    return RemoteError(
        kind=type(exc).__name__ if own else kind,
        type_name=_type_name(exc),
        builtins=builtin_bases(exc),
        message=_cut(_text_of(exc), MESSAGE_BYTES),
        traceback="" if own else _cut(format_user_traceback(exc), TRACEBACK_BYTES),
        where=where,
    )


def user_error(exc: BaseException, doing: str) -> FeederError:
    """Make the `SourceError` to raise for an exception that the user's code raised.

    Args:
        exc: what was caught.
        doing: what was going on, for example ``"while augment.py was imported"``.

    Returns:
        The error, an instance of the original's built-in type as well, with the user's traceback in its message. An error of
        feeder's own that only passed through is returned unchanged.
    """
    if isinstance(exc, FeederError) and _raised_by_feeder(exc):
        return exc
    found = describe(exc)
    remote = replace(found, message=f"{found.message} ({doing})" if found.message else f"({doing})")
    error = rebuild(remote, "")
    # So that a worker which reports it sends the parts, and not a text that already holds a traceback.
    error._feeder_remote = remote  # type: ignore[attr-defined]
    error.__cause__ = exc
    return error


def plain_error(message: str, like: type[Exception]) -> FeederError:
    """Make a `SourceError` that needs no traceback: what is wrong is said in the message.

    Args:
        message: what happened and what to change.
        like: built-in type that the error is an instance of as well, for example TypeError for wrong arguments.
    """
    remote = RemoteError("SourceError", like.__name__, builtin_bases(like()), message, "")
    error = rebuild(remote, "")
    error.args = (message,)
    error._feeder_remote = remote  # type: ignore[attr-defined]
    return error


def wrong_arguments(signature: inspect.Signature, kwargs: dict[str, Any], label: str, detail: str) -> FeederError:
    """Make the error for arguments that a class or function doesn't take, before it is called with them.

    Args:
        signature: what it takes.
        kwargs: what it was to be given.
        label: what to call it, for example ``"augment.py:train"``.
        detail: Python's own words, for what these don't cover.
    """
    usual = {name: p for name, p in signature.parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    listing = ", ".join(name if p.default is p.empty else f"{name}={_short(p.default)}" for name, p in usual.items())
    unknown = [name for name in kwargs if name not in signature.parameters]
    missing = [name for name, p in usual.items() if p.default is p.empty and name not in kwargs]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        text = f"{label}() got an unexpected argument {unknown[0]!r}{did_you_mean(unknown[0], list(usual))}"
    elif missing:
        text = f"{label}() needs {' and '.join(map(repr, missing))} (give -a {missing[0]}=VALUE)"
    else:
        text = f"{label}() can't be called with named arguments: {detail}"
    takes = f"it takes: {listing}" if usual else "it takes no arguments"
    return plain_error(f"{text}; {takes}", TypeError)


def has_user_frames(exc: BaseException) -> bool:
    """Whether any code that is neither feeder's nor the import machinery's ran on the way to `exc`."""
    return any(not _is_feeder(name) and not _is_import(name) for name in _files(exc))


def format_user_traceback(exc: BaseException) -> str:
    """Format an exception, its causes and its contexts, each starting in the user's code."""
    try:
        formatted = traceback.TracebackException(type(exc), exc, exc.__traceback__)
        for part in _linked(formatted):
            _strip(part.stack)
        return "".join(formatted.format())
    except Exception:  # an exception class may do anything in its attributes; its type and its place are still worth having
        frames = traceback.extract_tb(exc.__traceback__)
        _strip(frames)
        lines = ["Traceback (most recent call last):\n", *frames.format(), f"{_type_name(exc)}: {_text_of(exc)}\n"]
        return "".join(lines)


def _strip(stack: traceback.StackSummary) -> None:
    """Take the machinery out of a list of frames, in place.

    Import frames go everywhere, as in Python's own tracebacks, and feeder's where they lead. A stack of nothing but feeder's frames
    is a fault of feeder's and stays as it is; an import that failed before any of the user's code ran shows no frames at all.
    """
    imported = any(_is_import(frame.filename) for frame in stack)
    left = [frame for frame in stack if not _is_import(frame.filename)]
    first = next((i for i, frame in enumerate(left) if not _is_feeder(frame.filename)), None)
    if first is not None:
        stack[:] = left[first:]
    elif imported:
        stack[:] = []


def _linked(top: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    todo, seen = [top], set()
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        members = getattr(part, "exceptions", None) or ()  # of an exception group, Python 3.11
        todo.extend(other for other in (part.__cause__, part.__context__, *members) if other is not None)


def _raised_by_feeder(exc: BaseException) -> bool:
    # The user's code may use a FeederClient of its own, whose errors then are the user's.
    files = list(_files(exc))
    return not files or _is_feeder(files[-1])


def _files(exc: BaseException) -> Iterator[str]:
    tb = exc.__traceback__
    while tb is not None:
        yield tb.tb_frame.f_code.co_filename
        tb = tb.tb_next


def _is_feeder(filename: str) -> bool:
    return filename.startswith(_FEEDER)


def _is_import(filename: str) -> bool:
    return filename.startswith(_IMPORT_MACHINERY) or filename.endswith(_IMPORTLIB) or filename == _MODULE_SEEDS


def _type_name(exc: BaseException) -> str:
    cls = type(exc)
    module = cls.__module__ if isinstance(cls.__module__, str) else ""
    name = cls.__qualname__ if module in ("builtins", "__main__", "") else f"{module}.{cls.__qualname__}"
    return _cut(name, 256)


def _text_of(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:
        return f"<{type(exc).__name__} whose text can't be made>"


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
    return text if len(text) <= 40 else text[:37] + "..."


def _cut(text: str, limit: int) -> str:
    """Make `text` valid UTF-8 of at most `limit` bytes: what goes is the middle, since the ends say where it began and what it was."""
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= limit:
        return raw.decode("utf-8")
    note = f"\n... {len(raw) - limit} bytes left out ...\n"
    room = max(limit - len(note), 0)
    head, tail = raw[: room // 2], raw[len(raw) - (room - room // 2) :]
    return head.decode("utf-8", "ignore") + note + tail.decode("utf-8", "ignore")
