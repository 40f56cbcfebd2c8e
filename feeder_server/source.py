"""The user's contract: what an object has to be so that batches can be drawn from it.

    indexed   __getitem__ and a length (`__len__` or `num_batches`): item i is batch i. Keras Sequence and PyDataset, lists of batches
    stream    a generator function, or anything that can be iterated: batches come one after the other, again from the start per run

If an object is both, indexed wins. What counts is what an object has, never its class, so that nothing needs to be imported.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import types
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, TypeAlias

from feeder_server.failure import has_user_frames, plain_error, user_error, wrong_arguments
from feeder_wire.errors import ConfigError

Shard: TypeAlias = tuple[int, int]

START = "start_batch"
"""Parameter of a stream's factory that says how many batches of its shard to leave out; it needs a default, which should be 0."""
_LARGEST = 2**63 - 1
_KERAS = frozenset({"keras", "tf_keras", "tensorflow"})
_USE = "a source is a Sequence (or other object with __getitem__ and __len__), a list of batches, or a generator function"


class IndexedSource:
    """A source whose item i is batch i: the user's object `subject`, called `label` in messages.

    Attributes:
        reseed: see `StreamSource.reseed`.
        roots: where the user's objects are found, by name.
    """

    def __init__(self, subject: object, label: str = "") -> None:
        self.subject: Any = subject
        self.label = label or type(subject).__name__
        self.roots: dict[str, object] = {"source": subject}
        self._set_epoch = _hook(subject, "set_epoch")
        self._on_epoch_end = _hook(subject, "on_epoch_end")
        self._on_epoch_begin = _hook(subject, "on_epoch_begin")
        self.reseed: Callable[[int], object] | None = _hook(subject, "reseed")

    @property
    def num_batches(self) -> int | None:
        """How many batches make a pass just now (it may change between epochs); None where there is no end."""
        return _length(self.subject, self.label)

    @property
    def stateful(self) -> bool:
        """Whether the object is told about epochs, so that it may be another one in the next."""
        return bool(self._set_epoch or self._on_epoch_end or self._on_epoch_begin)

    def advance(self, epoch: int) -> None:
        """Tell the object that `epoch` begins. To be called for 0, 1, 2, ... in turn: shuffles are cumulative.

        A `set_epoch` is told the number; an `on_epoch_end` is called between epochs, so not for 0.
        """
        if self._set_epoch:
            self._set_epoch(epoch)
        elif self._on_epoch_end and epoch > 0:
            self._on_epoch_end()
        if self._on_epoch_begin:
            self._on_epoch_begin()

    def get(self, index: int) -> object:
        """Make batch `index`; what the user's code raises comes out as it is."""
        return self.subject[index]


@dataclass(slots=True)
class StreamSource:
    """A source that gives its batches one after the other.

    Attributes:
        begin: begins a run.
        subject: the user's object, where there is one that lives longer than a run.
        label: what to call it in messages.
        restartable: whether `start` may be called again. If not, another run needs a newly built source.
        independent: whether runs may go on side by side without noticing each other, so that sessions can share this source.
        sharded: whether the code takes a shard, and so gives each worker its part of the data.
        skips: whether the code takes ``start_batch``, and so can begin in the middle of a run.
    """

    begin: Callable[[Shard | None, int], Iterator[object]]
    subject: object = None
    label: str = ""
    restartable: bool = True
    independent: bool = True
    sharded: bool = False
    skips: bool = False

    @property
    def roots(self) -> dict[str, object]:
        """Where the user's objects are found; by name."""
        return {"source": self.subject, "begin": self.begin}

    @property
    def reseed(self) -> Callable[[int], object] | None:
        """The object's own way to be given a seed, where it has one: before each epoch and item it is told one of 63 bits."""
        hook: Callable[[int], object] | None = _hook(self.subject, "reseed")
        return hook

    @property
    def num_batches(self) -> int | None:
        """Batches per run of one copy, where the object has a length; else None."""
        try:
            return _length(self.subject, self.label)
        except (TypeError, NotImplementedError):  # how a tf.data.Dataset or a DataLoader says that it doesn't know
            return None

    def start(self, shard: Shard | None, run: int = 0, start_batch: int = 0) -> Iterator[object]:
        """Begin a run. The iterator may give the same array again with new contents: use a batch before asking for the next.

        `start_batch`: how many batches of the shard to leave out; 0 for a source that doesn't take it (`skips`).
        """
        set_epoch = _hook(self.subject, "set_epoch")
        if set_epoch:
            set_epoch(run)
        return self.begin(shard, start_batch)


def build(factory: object, args: dict[str, Any], *, shard: Shard | None, label: str = "") -> IndexedSource | StreamSource:
    """Make a source of what a target names. The caller seeds; see seeding.py.

    Args:
        factory: a class or function, which is called with `args`, or an object, which is taken as it is.
        args: keyword arguments of the user.
        shard: index and number of the worker, for code that takes ``shard_index`` and ``num_shards``, or ``shard``.
        label: what to call it in messages, for example ``"augment.py:train"``.

    Raises:
        SourceError: the user's code raised, got arguments it doesn't take, or gave something that is no source.
        ConfigError: arguments for an object that isn't called.
    """
    label = label or getattr(factory, "__qualname__", type(factory).__name__)
    if is_factory(factory):
        return _call_factory(factory, args, shard, label, called=False)
    if args:
        raise ConfigError(f"{label} is {_a(factory)}, which isn't called, so it can't take the argument {next(iter(args))!r}")
    if inspect.isgenerator(factory):
        raise plain_error(f"{label} is a generator, which runs only once: name the function that makes it, without calling it", TypeError)
    return _take_object(factory, label, made=False)


def is_factory(thing: object) -> bool:
    """Whether `thing` is called to get a source: a class, a function, or an object that can do nothing else than be called."""
    if isinstance(thing, type) or inspect.isroutine(thing) or isinstance(thing, functools.partial):
        return True
    return callable(thing) and not any(hasattr(type(thing), name) for name in ("__getitem__", "__iter__", "__next__"))


def _call_factory(factory: Any, args: dict[str, Any], shard: Shard | None, label: str, *, called: bool) -> IndexedSource | StreamSource:
    call = getattr(factory, "__call__", factory)  # noqa: B004 - of an object: inspect looks for the function
    is_class = isinstance(factory, type)
    if is_class and hasattr(factory, "__getitem__"):
        shard = None  # every copy of an indexed source has to hold everything: any worker may be asked for any item
    kwargs, sharded = _arguments(factory, args, shard, label)
    if not is_class and any(test(factory) or test(call) for test in (inspect.iscoroutinefunction, inspect.isasyncgenfunction)):
        raise plain_error(f"{label} is an async function; {_USE}", TypeError)
    again, skips = functools.partial(_run, factory, args, label), _takes(factory, START, args)
    if not is_class and (inspect.isgeneratorfunction(factory) or inspect.isgeneratorfunction(call)):
        return StreamSource(again, label=label, sharded=sharded, skips=skips)
    result = _called(factory, kwargs, label)
    if sharded and _is_indexed(result):
        kwargs, sharded = _arguments(factory, args, None, label)
        result = _called(factory, kwargs, label)
    if not is_class and _is_own_iterator(result):
        # `result` is dropped unused: every run is begun alike, by calling the function, and the first is no exception.
        return StreamSource(again, label=label, sharded=sharded, skips=skips)
    if is_factory(result):
        if called:
            raise plain_error(f"{label}() gave a function that gave a function; {_USE}", TypeError)
        return _call_factory(result, {}, shard, label, called=True)
    return _take_object(result, label, made=True, sharded=sharded)


def _take_object(subject: Any, label: str, *, made: bool, sharded: bool = False) -> IndexedSource | StreamSource:
    what = f"{label}() gave" if made else f"{label} is"
    reason = _refusal(subject)
    if reason:
        raise plain_error(f"{what} {reason}; {_USE}", TypeError)
    source: IndexedSource | StreamSource
    if _is_indexed(subject):
        source = IndexedSource(subject, label)
    elif _is_own_iterator(subject):
        source = StreamSource(lambda *_: iter(subject), subject=subject, label=label, restartable=False, independent=False, sharded=sharded)
    elif hasattr(type(subject), "__iter__") or hasattr(type(subject), "__getitem__"):
        # A tf.data.Dataset gives NumPy arrays this way, and tensors otherwise.
        begin = getattr(subject, "as_numpy_iterator", None) or functools.partial(iter, subject)
        source = StreamSource(lambda *_: begin(), subject=subject, label=label, independent=not made, sharded=sharded)
    else:
        raise plain_error(f"{what} {_a(subject)}; {_USE}", TypeError)
    try:
        _ = source.num_batches
    except Exception as exc:
        raise user_error(exc, f"while the number of batches of {label} was read") from exc
    return source


def _run(factory: Any, args: dict[str, Any], label: str, shard: Shard | None, start_batch: int = 0) -> Iterator[object]:
    kwargs, _ = _arguments(factory, args, shard, label)
    return iter(factory(**kwargs, **({START: start_batch} if start_batch else {})))


def _takes(factory: Any, name: str, args: dict[str, Any]) -> bool:
    """Whether a factory has a parameter of that name with a default, which the user has given no value."""
    try:
        parameter = inspect.signature(factory).parameters.get(name)
    except (ValueError, TypeError):
        return False
    return parameter is not None and parameter.default is not inspect.Parameter.empty and name not in args


def _called(factory: Any, kwargs: dict[str, Any], label: str) -> Any:
    try:
        return factory(**kwargs)
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt):
            raise
        if isinstance(exc, TypeError) and not has_user_frames(exc):  # a built-in, whose signature nobody knows
            raise plain_error(f"{label}() can't be called like this: {exc}", TypeError) from None
        raise user_error(exc, f"while {label} was built") from exc


def _arguments(factory: Any, args: dict[str, Any], shard: Shard | None, label: str) -> tuple[dict[str, Any], bool]:
    """Work out what to call a factory with, and whether that gives it a shard; a `SourceError` where it doesn't take this."""
    try:
        signature = inspect.signature(factory)
    except (ValueError, TypeError):
        return args, False
    parameters = signature.parameters
    index, count = shard or (0, 1)
    given: dict[str, Any] = {}
    if "shard_index" in parameters and "num_shards" in parameters:
        given = {"shard_index": index, "num_shards": count}
    # Only where its default leaves no doubt: `shard="train-00"` is something of the user's own.
    elif "shard" in parameters and any(parameters["shard"].default is usual for usual in (None, inspect.Parameter.empty)):
        given = {"shard": (index, count)}
    needed = any(parameters[name].default is inspect.Parameter.empty for name in given)
    if given.keys() & args.keys() or (shard is None and not needed):
        given = {}
    kwargs = {**args, **given}
    try:
        signature.bind(**kwargs)
    except TypeError as exc:
        raise wrong_arguments(signature, kwargs, label, str(exc)) from None
    return kwargs, bool(given) and shard is not None


def _refusal(subject: Any) -> str:
    """Say why something that could be indexed or iterated is no source all the same; empty where it may be one."""
    cls = type(subject)
    if subject is None:
        return "None (a return or a yield is missing)"
    if isinstance(subject, types.ModuleType):
        return f"the module {subject.__name__} (write {subject.__name__}:NAME)"
    if isinstance(subject, (str, bytes, bytearray, memoryview)):
        return _a(subject)
    if isinstance(subject, (Mapping, Set)):
        return f"{_a(subject)}, which has no order of batches"
    if isinstance(subject, tuple):
        return f"{_a(subject)}, which is one batch or a whole data set, not batches (a list of batches would do)"
    if any(hasattr(cls, name) for name in ("__array__", "__array_interface__")):
        return f"{_a(subject)}, which is data, not batches (cut it into batches in __getitem__)"
    if any(hasattr(cls, name) for name in ("__aiter__", "__anext__", "__await__")):
        if inspect.iscoroutine(subject):
            subject.close()  # or Python warns that nobody awaited it
        return f"{_a(subject)}, which is asynchronous"
    return ""


def _is_indexed(subject: object) -> bool:
    cls = type(subject)
    if _refusal(subject) or not hasattr(cls, "__getitem__"):
        return False
    return hasattr(cls, "__len__") or _has(subject, "num_batches")


def _is_own_iterator(subject: object) -> bool:
    return hasattr(type(subject), "__next__") and not _is_indexed(subject)


def _has(subject: object, name: str) -> bool:
    try:
        getattr(subject, name)
    except AttributeError:
        return False
    except Exception:  # a property that raises is there
        return True
    return True


def _hook(subject: object, name: str) -> Any:
    """Find a method of the user's; those of Keras' base classes do nothing, and would make a state of what has none."""
    method: Any = getattr(subject, name, None)
    if not callable(method):
        return None
    inherited = getattr(method, "__qualname__", "") in (f"PyDataset.{name}", f"Sequence.{name}")
    if inherited and str(getattr(method, "__module__", "")).partition(".")[0] in _KERAS:
        return None
    return method


def _length(subject: Any, label: str) -> int | None:
    if _has(subject, "num_batches"):
        value = subject.num_batches
        if callable(value):
            value = value()
    elif hasattr(type(subject), "__len__"):
        value = subject.__len__()  # len() refuses what is longer than a C integer
    else:
        return None
    if value is None or (isinstance(value, float) and value == math.inf):
        return None
    try:
        count = operator.index(value)
    except TypeError:
        raise plain_error(f"{label} has {value!r} batches: a length has to be a whole number, so wrap it in int()", TypeError) from None
    if count < 0:
        raise plain_error(f"{label} has {count} batches: a length can't be negative", ValueError)
    return min(count, _LARGEST)


def _a(thing: object) -> str:
    name = type(thing).__name__
    return f"{'an' if name.lower().startswith(('a', 'e', 'i', 'o', 'nd')) else 'a'} {name}"
