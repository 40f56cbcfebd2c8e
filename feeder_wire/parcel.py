"""An object of the training process, packed once and unpacked in every worker: both ends of one layout.

    training process                  private directory (0700)               workers, any number of them
    pack(obj) ── pickle stream ───────── through stdin pipes ─────────────▶ unpack(parcel)
        └── buffers of large arrays ──▶ parcel-*.bin (0600) ── mapped copy-on-write ──┘

Layout of the file: the buffers, each at a multiple of 64 bytes (views of the same memory lie on the same bytes, so they still
share it after the trip), then the pickle stream where that is large. Workers map the file copy-on-write: a page is in memory
once for all of them until one of them writes to it, and only that one gets a copy. Nothing writes to the file after `pack`.

Ownership: whoever made the directory removes it after the last worker is gone (Windows doesn't remove a mapped file).
A parcel holds code. It travels through pipes and a private directory between processes of one user, never through a socket.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import logging
import mmap
import os
import pickle
import secrets
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle  # type: ignore[import-untyped, unused-ignore]
import numpy as np

from feeder_wire.errors import ConfigError, ProtocolError, SourceNotFound

log = logging.getLogger(__name__)

ALIGNMENT = 64
FILE_FROM_BYTES = 1 << 20  # a buffer, or a pickle stream, of this size or more goes into the file
# Once smaller buffers add up to that (a list of 100,000 pictures), those of this size or more go into the file too; else every
# worker would hold a copy of its own of all of them.
INLINE_UP_TO_BYTES = 4096
_CACHED_FUNCTION = type(functools.lru_cache(lambda: None))
_SHORT_LIVED = getattr(os, "O_SHORT_LIVED", 0)  # Windows: keep it in memory if there is room
_WRITE_BYTES = 64 << 20  # one write of 2 GiB or more is cut short or refused, depending on the system


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a worker needs to rebuild an object.

    Attributes:
        stream: the pickle stream; empty where it is large and lies in the file, as the last segment.
        file: absolute path of the file; None where there is none.
        segments: (offset in bytes, length in bytes, read-only) of each buffer in the file, in the order of the stream.
        search_path: where the packing process finds modules, best first; what it can import travels by name only.
    """

    stream: bytes = field(repr=False)
    file: str | None
    segments: tuple[tuple[int, int, bool], ...] = field(repr=False)
    search_path: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not (self.stream or self.segments) or bool(self.segments) != bool(self.file):
            raise ValueError("a stream is missing, or a file, or its segments")
        if any(offset < 0 or nbytes < 0 for offset, nbytes, _ in self.segments):
            raise ValueError("a segment lies outside of the file")

    def to_json(self) -> str:
        """One line of ASCII; a path that isn't valid UTF-8 survives as escaped surrogates."""
        stream = base64.b64encode(self.stream).decode("ascii")
        return json.dumps({"stream": stream, "file": self.file, "segments": self.segments, "search_path": self.search_path})

    @classmethod
    def from_json(cls, text: str) -> Parcel:
        """The inverse of `to_json`; raises ProtocolError if `text` is no parcel."""
        try:
            data = json.loads(text)
            return cls(
                stream=base64.b64decode(data["stream"], validate=True),
                file=None if data["file"] is None else str(data["file"]),
                segments=tuple((int(offset), int(nbytes), bool(readonly)) for offset, nbytes, readonly in data["segments"]),
                search_path=tuple(str(path) for path in data["search_path"]),
            )
        except (ValueError, KeyError, TypeError) as exc:
            raise ProtocolError(f"this is not a parcel: {exc}") from exc


def pack(obj: object, directory: Path) -> Parcel:
    """Pack `obj` for any number of workers on this machine.

    Nothing is copied in memory on the way, except arrays that aren't contiguous, one copy each. Arrays mapped from a file
    (`numpy.memmap`, ``numpy.load(..., mmap_mode="r")``) and views of them travel by file name.

    Args:
        directory: where the file goes, if there has to be one; exists, mode 0700, removed by the caller.

    Raises:
        ConfigError: the file couldn't be written; says how much was needed and where.
        Exception: whatever pickling raised; see `feeder_client.unpicklable.explain`.
    """
    buffers: list[pickle.PickleBuffer] = []
    inline_bytes = 0

    def keep_inline(buffer: pickle.PickleBuffer) -> bool:
        nonlocal inline_bytes
        nbytes = buffer.raw().nbytes
        if nbytes < FILE_FROM_BYTES:
            inline_bytes += nbytes
            if inline_bytes < FILE_FROM_BYTES or nbytes < INLINE_UP_TO_BYTES:
                return True
        buffers.append(buffer)
        return False

    sink = io.BytesIO()
    _Pickler(sink, protocol=5, buffer_callback=keep_inline).dump(obj)
    stream = sink.getbuffer()
    views = [buffer.raw() for buffer in buffers]
    segments, writes, end = _layout(views)
    if stream.nbytes >= FILE_FROM_BYTES:
        segments.append((end, stream.nbytes, True))
        writes.append((end, stream))
        stream = memoryview(b"")
    return Parcel(bytes(stream), _write(directory, writes) if writes else None, tuple(segments), _search_path())


def picklable(obj: object) -> Exception | None:
    """Try whether `obj` can be packed; nothing is written or kept.

    Returns:
        None if it can be, else what pickling raised.
    """
    try:
        _Pickler(SimpleNamespace(write=len), protocol=5, buffer_callback=lambda buffer: False).dump(obj)
    except Exception as exc:  # the user's own __reduce__ and __getstate__ run here, and raise what they like
        return exc
    return None


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc, unused-ignore]
    """cloudpickle, and what it gets wrong or does at too high a price for data sources."""

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if issubclass(kind, np.ndarray):
            return _reduce_array(obj)
        if kind is _CACHED_FUNCTION and (obj.__module__ == "__main__" or "<locals>" in getattr(obj, "__qualname__", "<locals>")):
            # Pickle would only name it, and a worker's __main__ is another one. The worker starts with an empty cache.
            return _cached, (obj.__wrapped__, obj.cache_parameters())
        if kind is functools.cached_property:  # holds a lock before Python 3.12
            return functools.cached_property, (obj.func,), {"attrname": obj.attrname}
        return super().reducer_override(obj)


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _reduce_array(array: Any) -> Any:
    """How an array travels: mapped ones by file name, others as one buffer, small or odd ones as NumPy does it."""
    root = _mapped_root(array)
    if root is array:
        order = "C" if root.flags.c_contiguous else "F"
        mode = "c" if root.flags.writeable else "r"  # a worker must not write into the user's file
        return _open_mapped, (str(root.filename), root.offset, root.dtype, root.shape, order, mode)
    if root is not None and array.size and type(array) in (np.ndarray, np.memmap):
        at = array.ctypes.data - root.ctypes.data
        return _view_mapped, (root, at, array.dtype, array.shape, array.strides, array.flags.writeable)
    if type(array) is np.memmap:
        array = array.view(np.ndarray)  # NumPy would read all of it into the stream, as of any subclass
    if type(array) is np.ndarray and not (array.dtype.hasobject or array.flags.forc):
        array = np.ascontiguousarray(array)  # else its bytes would go into the stream
    return array.__reduce_ex__(5)


def _mapped_root(array: Any) -> Any:
    """The memmap that `array` is, or is a view of, if a worker can map the same file and see the same values; else None."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    if type(array) is not np.memmap or not isinstance(array.base, mmap.mmap):
        return None
    with suppress(OSError):
        # Opened with "c" it may differ from its file, and the file may have been removed or replaced since.
        if array.mode != "c" and array.filename and os.path.getsize(array.filename) >= array.offset + array.nbytes:
            return array
    return None


def _layout(views: Sequence[memoryview]) -> tuple[list[tuple[int, int, bool]], list[tuple[int, memoryview]], int]:
    """Give every buffer its place; memory that several buffers share is written once.

    Returns:
        The segments in the order of `views`; (offset, bytes) of what to write, ascending; where the next thing may begin.
    """
    starts = [np.frombuffer(view, np.uint8).ctypes.data for view in views]
    segments: list[tuple[int, int, bool]] = [(0, 0, True)] * len(views)
    writes: list[tuple[int, memoryview]] = []
    shift = end_memory = end = 0  # a byte at address a lies at a + shift; what is written so far ends at these two
    for i in sorted(range(len(views)), key=lambda i: (starts[i], -views[i].nbytes)):
        start, view = starts[i], views[i]
        if start >= end_memory:
            shift = -(-end // ALIGNMENT) * ALIGNMENT - start
            end_memory = start
        if start + view.nbytes > end_memory:
            writes.append((end_memory + shift, view[end_memory - start :]))
            end_memory = start + view.nbytes
            end = end_memory + shift
        segments[i] = (start + shift, view.nbytes, view.readonly)
    return segments, writes, -(-end // ALIGNMENT) * ALIGNMENT


def _write(directory: Path, writes: Sequence[tuple[int, memoryview]]) -> str:
    """Write a new file in one go, or leave nothing behind."""
    needed = writes[-1][0] + writes[-1][1].nbytes
    path = os.path.join(os.path.abspath(directory), f"parcel-{secrets.token_hex(8)}.bin")
    try:
        if needed > (free := shutil.disk_usage(directory).free):
            raise OSError(f"only {free / 2**20:,.1f} MiB are free")
        with open(path, "xb", buffering=0, opener=lambda name, flags: os.open(name, flags | _SHORT_LIVED, 0o600)) as file:
            for offset, view in writes:
                file.seek(offset)
                while view:
                    view = view[file.write(view[:_WRITE_BYTES]) :]
    except OSError as exc:
        with suppress(OSError):
            os.unlink(path)
        raise ConfigError(
            f"your object needs {needed / 2**20:,.1f} MiB in {directory}: {exc}. Point {'TEMP' if os.name == 'nt' else 'TMPDIR'} at a "
            'larger disk, or keep large arrays in .npy files and open them with numpy.load(name, mmap_mode="r"): those aren\'t copied.'
        ) from exc
    return path


def _search_path() -> tuple[str, ...]:
    # For a process with another current folder. What isn't there isn't made absolute: it may be the name of an import hook.
    found = [os.path.abspath(path) if os.path.exists(path or ".") else path for path in sys.path if isinstance(path, str)]
    return tuple(dict.fromkeys([*found, os.getcwd()]))


def unpack(parcel: Parcel) -> Any:
    """Rebuild the object; its large arrays share their memory with those of every other worker until written to.

    Gives `sys.path` the order it has in the packing process, so that ``utils`` is the same module in both. May be called again,
    for another copy of the object.

    Raises:
        ConfigError: the parcel's file is gone or not the one that was written.
        SourceNotFound: a module or name that the object needs isn't there.
        Exception: whatever the user's own code raised.
    """
    sys.path[:] = [*parcel.search_path, *(path for path in sys.path if path not in parcel.search_path)]
    buffers = _map_segments(parcel)
    stream = parcel.stream or buffers.pop()
    try:
        return pickle.loads(stream, buffers=buffers)
    except (ModuleNotFoundError, AttributeError) as exc:
        if isinstance(exc, AttributeError) and "__main__" not in str(exc):
            raise
        raise SourceNotFound(f"a worker can't find a part of your object: {exc} (looked in {parcel.search_path})") from exc


def _map_segments(parcel: Parcel) -> list[memoryview]:
    if parcel.file is None:
        return []
    try:
        with open(parcel.file, "rb") as file:
            try:
                memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
            except OSError as exc:
                # Windows, and Linux without overcommit, reserve a full copy for each worker. Few sources write into their data.
                log.warning("no memory for private copies of your object's arrays (%s): they are read-only in this worker", exc)
                memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as exc:  # ValueError: the file is empty
        raise ConfigError(f"the arrays of your object can't be read from {parcel.file}: {exc}") from exc
    if any(offset + nbytes > memory.nbytes for offset, nbytes, _ in parcel.segments):
        raise ConfigError(f"the arrays of your object can't be read from {parcel.file}: it is shorter than it was when written")
    readable = memory.toreadonly()
    return [(readable if readonly else memory)[offset : offset + nbytes] for offset, nbytes, readonly in parcel.segments]


def _open_mapped(path: str, offset: int, dtype: Any, shape: Any, order: Any, mode: Any) -> Any:
    with suppress(OSError):  # no memory for a private copy, see `_map_segments`
        return np.memmap(path, dtype=dtype, mode=mode, offset=offset, shape=shape, order=order)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order=order)


def _view_mapped(root: Any, offset: int, dtype: Any, shape: Any, strides: Any, writeable: bool) -> Any:
    flat = root.view(np.ndarray).reshape(-1, order="A").view(np.uint8)
    view: Any = np.ndarray(shape, dtype, buffer=flat, offset=offset, strides=strides)
    view.flags.writeable = writeable and root.flags.writeable
    return view
