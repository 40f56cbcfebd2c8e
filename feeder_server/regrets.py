"""Look at a batch: what is in it, and what its user may regret about it. Pure, in the worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from feeder_server.sample import MOST_LINES, Sample
from feeder_wire.codec import encode, shape_of

_MB = 1e6
_LOOKED_AT = 4096  # elements looked at to see whether an array is mostly one value
_MOSTLY = 0.95


def describe(batch: object) -> Sample:
    """Describe a batch as a source returned it.

    Takes less than a millisecond for usual batches, whatever their size: of large arrays a few thousand elements are looked at.

    Raises:
        UnsupportedBatch: it can't be sent.
    """
    encoded = encode(batch)
    leaves = shape_of(encoded.head)
    width = max((len(path) for path, _, _ in leaves[:MOST_LINES]), default=0)
    lines = [_line(path, dtype, shape, min(width, 40)) for path, dtype, shape in leaves[:MOST_LINES]]
    if len(leaves) > MOST_LINES:
        lines.append(f"and {len(leaves) - MOST_LINES:,} more")
    warnings = [text for path, value in _arrays("batch", batch) for text in _regrets(path, value)]
    return Sample(tuple(lines), encoded.nbytes, tuple(warnings[:MOST_LINES]))


def _line(path: str, dtype: str, shape: tuple[int, ...], width: int) -> str:
    try:
        size = f"  {np.dtype(dtype).itemsize * int(np.prod(shape, dtype=object)) / _MB:.3g} MB" if shape else ""
    except TypeError:  # a type of Python's, or a dtype that NumPy doesn't know by name
        size = ""
    return f"{path:<{width}.80}  {dtype} {shape if shape else ''}{size}".rstrip()


def _arrays(path: str, value: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _arrays(f"{path}[{key!r:.60}]", part)
    elif isinstance(value, (tuple, list)):
        for i, part in enumerate(value):
            yield from _arrays(f"{path}[{i}]", part)
    elif isinstance(value, np.ndarray):
        yield path, value


def _regrets(path: str, array: np.ndarray[Any, Any]) -> Iterator[str]:
    if array.dtype == np.float64 and array.size > 1024:
        yield (
            f"{path} is float64: {array.nbytes / _MB:.3g} MB where float32 needs {array.nbytes / 2 / _MB:.3g}, and Keras computes in "
            "float32: return it with .astype('float32')"
        )
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8 and array.ndim >= 3:
        yield (
            f"{path} is {array.dtype} with shape {array.shape}, like an image: {array.nbytes / _MB:.3g} MB where uint8 would need "
            f"{array.size / _MB:.3g}: keep the dtype that the file had"
        )
    if array.nbytes >= 1_000_000:
        seen = array.reshape(-1)[:: max(1, array.size // _LOOKED_AT)] if array.flags.c_contiguous else array.flat[:_LOOKED_AT]
        values, counts = np.unique(seen, return_counts=True) if array.dtype.kind in "biuf" else ((), np.zeros(1))
        share = counts.max() / max(1, len(seen))
        if share >= _MOSTLY:
            yield (
                f"{path} is {share:.0%} {values[counts.argmax()]}: {array.nbytes / _MB:.3g} MB per batch are sent for it; make it in "
                "the model, or send what differs"
            )
