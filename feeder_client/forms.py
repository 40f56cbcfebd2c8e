"""The forms in which a batch is handed out, where it isn't handed out as the source gave it.

`keras_form`: Keras takes less than sources give. Nested lists become tuples, a trailing None goes, arrays become native-endian and
C-contiguous; a list at the top stays one, for Keras reads it as (x, y, sample_weight).

`tensors`: torch's tensors in the place of arrays. ``torch.from_numpy`` makes a view and keeps the array alive, and the array its block: a
block goes home when the last tensor on it is gone, wherever that was kept.

`keras_tensors`: both, for Keras on torch. It hands tensors on as they are, and of arrays it makes tensors by one or two copies. Only
where that gives the same tensor it is spared: of uint16 it makes int32, for example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

_ALIKE = frozenset("?bBhilqefdFD")
"""Types (``dtype.char``) of which Keras makes the type of the same name; not the unsigned ones, but for bytes."""


def keras_form(batch: Any) -> Any:
    """A batch as Keras takes it; see the module. Arrays that are fine already are the same objects."""
    if type(batch) in (tuple, list):
        items = [_tuples(item) for item in batch]
        # (x, None) and (x, y, None) are refused on TensorFlow; what is missing at the end means the same.
        while len(items) > 1 and items[-1] is None:
            items.pop()
        return tuple(items) if type(batch) is tuple else items
    return _tuples(batch)


def _tuples(item: Any) -> Any:
    return _changed(item, native, lists=tuple)


def _changed(item: Any, change: Callable[[Array], Any], lists: Callable[[list[Any]], Any] = list) -> Any:
    """`item` with each array changed, and each list made `lists` of; what is neither array nor container stays."""
    if isinstance(item, np.ndarray):
        return change(item)
    if isinstance(item, (tuple, list)):
        parts = [_changed(part, change, lists) for part in item]
        return lists(parts) if isinstance(item, list) else tuple(parts)
    if isinstance(item, dict):
        return {key: _changed(part, change, lists) for key, part in item.items()}
    return item


def native(array: Array) -> Array:
    """The array itself, or a native-endian, C-contiguous copy of it."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def tensors(item: Any) -> Any:
    """A batch with tensors in the place of its arrays. What torch has no type for (texts, dates) stays an array; None stays None."""
    return _changed(item, lambda array: _tensor(native(array)))


def keras_tensors(batch: Any) -> Any:
    """A batch in `keras_form`, with tensors where Keras' torch backend would make the same ones, by a copy, of the arrays."""
    found = keras_form(batch)
    # Keras puts an array that is a whole batch into a tuple, and refuses such a tensor.
    return _changed((found,) if isinstance(found, np.ndarray) else found, _view)


def _view(array: Array) -> Any:
    alike = array.dtype.char in _ALIKE or array.dtype.name == "bfloat16"
    # torch warns of an array that can't be written, and a copy of it can be.
    return _tensor(array) if alike and array.flags.writeable else array


def _tensor(array: Array) -> Any:
    import torch

    if array.dtype.name == "bfloat16":  # NumPy's is an extension type, which torch doesn't know under that name
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(array)
    except TypeError:
        return array
