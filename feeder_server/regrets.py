"""Look at a batch: what is in it, and what its user may regret about it. Pure, in the worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from feeder_server.sample import MOST_LINES, Sample, size_text
from feeder_wire.codec import encode, shape_of

_LOOKED_AT = 4096  # elements looked at to see whether an array is mostly one value
_MOSTLY = 0.95
_TOO_SMALL = 1024  # elements: labels are nobody's bottleneck
_LARGE = 1_000_000  # bytes


def describe(batch: object) -> Sample:
    """Describe a batch as a source returned it.

    Takes about a millisecond for usual batches: of large arrays a few thousand elements are looked at, of 64-bit integers all.

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
        size = f"  {size_text(np.dtype(dtype).itemsize * int(np.prod(shape, dtype=object)))}" if shape else ""
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
    if array.size <= _TOO_SMALL:
        return
    kind, width = array.dtype.kind, array.dtype.itemsize
    if kind == "f" and width == 8:
        yield (
            f"{path} is float64: {size_text(array.nbytes)} where float32 needs {size_text(array.nbytes // 2)}, and Keras computes in "
            "float32: return it with .astype('float32')"
        )
    if kind in "iu" and width == 8 and array.ndim >= 3:
        low, high = int(array.min()), int(array.max())
        enough = np.min_scalar_type(high if low >= 0 else min(low, -high - 1))
        if enough.itemsize < width:
            yield (
                f"{path} is {array.dtype} with shape {array.shape}, like an image: {size_text(array.nbytes)} where {enough} would need "
                f"{size_text(array.size * enough.itemsize)}: keep the dtype that the file had"
            )
    if array.nbytes >= _LARGE and kind in "biuf":
        # At random places: steps of one width would fall on one channel or one border of every picture.
        places = np.random.default_rng(0).integers(0, array.size, _LOOKED_AT)
        values, counts = np.unique(array.flat[places], return_counts=True)
        share = counts.max() / len(places)
        if share >= _MOSTLY:
            yield (
                f"{path} is {share:.0%} {values[counts.argmax()]}: {size_text(array.nbytes)} per batch are sent for it; make it in "
                "the model, or send what differs (class numbers in place of one-hot)"
            )
