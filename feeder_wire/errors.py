"""Every error that feeder raises on purpose.

    FeederError
    ├── ConfigError            an option, argument or target that can't work           (exit code 2)
    ├── SourceNotFound         module, file or attribute of a target is missing         (exit code 3)
    ├── SourceError            the user's code raised, here or in a worker              (exit code 3)
    ├── UnsupportedBatch       a leaf of the batch can't travel (object dtype, ...)
    ├── DivergentSource        copies of one source disagree
    ├── EndpointError          an endpoint can't be bound or is no endpoint             (exit code 4)
    ├── NodeUnreachable        nothing answers at an endpoint                           (exit code 4)
    │   └── AuthenticationError    something answers, and the keys are wrong or missing
    ├── VersionMismatch        the peer speaks another version of the wire
    ├── ProtocolError          the peer sent what no version of the wire allows
    ├── WorkerCrashed          the process that made the batch died, too often          (exit code 5)
    ├── BatchTimeout           a batch took longer than the user allowed
    └── ClosedError            used after close()

Messages say what happened and what to change, in one or two lines; a remote traceback follows on lines of its own.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass


class FeederError(Exception):
    """Base class of all errors of feeder."""


class ConfigError(FeederError):
    """An option, an argument or a target can't work as given."""


class SourceNotFound(FeederError):
    """A target names a module, file or attribute that isn't there; the message says which of them."""


class SourceError(FeederError):
    """The user's own code raised.

    The message ends with the traceback of the process in which it happened. Where the original was a built-in exception the
    error raised is also an instance of that type (see `source_error`), so ``except ValueError`` keeps working.
    """


class UnsupportedBatch(FeederError):
    """A batch holds something that can't be sent; the message names the leaf by its path and says why."""


class DivergentSource(FeederError):
    """Copies of one source, in several workers or nodes, don't give the same batches."""


class EndpointError(FeederError):
    """An endpoint can't be bound: taken, not an address of this machine, or not an endpoint at all."""


class NodeUnreachable(FeederError):
    """Nothing that speaks feeder's protocol answered at an endpoint within the time allowed."""


class AuthenticationError(NodeUnreachable):
    """Something answered, and refused the keys it was shown, or wanted keys where there were none."""


class VersionMismatch(FeederError):
    """The peer speaks another version of the wire protocol."""


class ProtocolError(FeederError):
    """The peer sent something that no version of the wire protocol allows."""


class WorkerCrashed(FeederError):
    """The worker process that made a batch died, and so did those that tried it again."""


class BatchTimeout(FeederError):
    """A batch took longer than ``batch_timeout``."""


class ClosedError(FeederError):
    """A client, sequence or server was used after it had been closed."""


@dataclass(frozen=True)
class RemoteError:
    """An exception as it travels: data only, because an exception class can't always be rebuilt from its arguments.

    Attributes:
        kind: name of the feeder error to raise on arrival, for example ``"SourceError"``.
        type_name: qualified name of the original exception class, for example ``"ValueError"`` or ``"mypkg.BadImage"``.
        builtins: names of the built-in exception classes the original derived from, nearest first.
        message: ``str()`` of the original.
        traceback: formatted remote traceback, starting in the user's code; empty where there is none.
        where: who failed, for example ``"worker 2 of tcp://127.0.0.1:5555"``.
    """

    kind: str
    type_name: str
    builtins: tuple[str, ...]
    message: str
    traceback: str
    where: str = ""


_KINDS: dict[str, type[FeederError]] = {
    cls.__name__: cls
    for cls in (
        ConfigError,
        SourceNotFound,
        SourceError,
        UnsupportedBatch,
        DivergentSource,
        WorkerCrashed,
        BatchTimeout,
        VersionMismatch,
        ProtocolError,
    )
}
# Types whose instances need more than a message, or that would change how the interpreter behaves when raised.
_NOT_MIXED = frozenset(
    {"BaseException", "Exception", "StopIteration", "StopAsyncIteration", "KeyboardInterrupt", "SystemExit", "GeneratorExit"}
)
_mixed: dict[tuple[str, str], type[FeederError]] = {}


def builtin_bases(exc: BaseException) -> tuple[str, ...]:
    """Names of the built-in exception classes that `exc` derives from, nearest first."""
    return tuple(c.__name__ for c in type(exc).__mro__ if c.__module__ == "builtins" and issubclass(c, BaseException))


def rebuild(error: RemoteError, context: str) -> FeederError:
    """Make the exception to raise in the training process.

    Args:
        error: what arrived.
        context: where in the data it belongs, for example ``"batch 17 of epoch 3 of source 'train'"``.

    Returns:
        An instance of the feeder error named by ``error.kind`` that also is an instance of the nearest built-in
        exception class of the original, where such a class can be mixed in.
    """
    base = _KINDS.get(error.kind, SourceError)
    head = f"{context}: " if context else ""
    if base is SourceError:
        head += f"{error.type_name}: "
    text = f"{head}{error.message}"
    if error.where:
        text += f" (in {error.where})"
    if error.traceback:
        text += f"\n\n{error.traceback.rstrip()}"
    return of_kind(error.kind, text, error.builtins)


def of_kind(kind: str, text: str, builtins: tuple[str, ...] = ()) -> FeederError:
    """The feeder error named `kind` with `text` as it is; a SourceError also is what `builtins` names, see `rebuild`."""
    base = _KINDS.get(kind, SourceError)
    return (_with_builtin(base, builtins) if base is SourceError else base)(text)


def _with_builtin(base: type[FeederError], names: tuple[str, ...]) -> type[FeederError]:
    for name in names:
        found = getattr(builtins, name, None)
        if name in _NOT_MIXED or not (isinstance(found, type) and issubclass(found, Exception)):
            continue
        key = (base.__name__, name)
        if key not in _mixed:
            try:
                # __str__ of KeyError shows the repr of its argument, which would turn a traceback into one escaped line.
                made = type(base.__name__, (base, found), {"__str__": Exception.__str__, "__module__": base.__module__})
                made("probe")
            except TypeError:  # layouts that don't mix (UnicodeDecodeError wants five arguments)
                continue
            _mixed[key] = made
        return _mixed[key]
    return base
