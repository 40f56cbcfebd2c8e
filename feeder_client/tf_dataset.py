"""A tf.data.Dataset of a client's batches.

    first batch ─▶ spec: its structure, dtypes and ranks          each iteration: one pass of the client
         └─▶ handed out again by the first iteration       ─▶     from_generator ─▶ numpy_function ─▶ tensors on the client's memory

``Dataset.from_generator`` calls the generator in numpy_function, which takes arrays at 64-byte-aligned addresses without a copy and
keeps them alive until the tensor dies (docs/architecture.md). Feeder's are aligned.

Lengths are all open: the last batch of a pass is often shorter, and images of several sizes are no error. A layer that has to know
one, because the model was not built yet, needs an `output_signature` that says it, or a model with an ``Input``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from feeder_client.forms import keras_form
from feeder_client.position import Position
from feeder_client.skips import Missing
from feeder_wire.errors import ConfigError, SourceError, UnsupportedBatch

if TYPE_CHECKING:
    from feeder_client.client import FeederClient


def make_tf_dataset(client: FeederClient, output_signature: Any = None) -> Any:
    """See `FeederClient.as_tf_dataset`."""
    try:
        import tensorflow as tf
    except ImportError as e:
        raise ConfigError(f"as_tf_dataset() needs TensorFlow, which can't be imported ({e}): pip install tensorflow") from None
    passes = _Passes(client)
    if output_signature is None:
        first = tensor_form(keras_form(passes.look()))
        output_signature = spec_of(first, tf)
        passes.form = form_of(first)
    dataset = tf.data.Dataset.from_generator(passes, output_signature=output_signature)
    length = client.num_batches
    if length is None:
        # A stream that may end after each run, or an endless source: only the second is known for sure not to end.
        return dataset if client._core.in_runs else dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    # The rest of an epoch that was taken up again is shorter than the passes after it.
    return dataset if client._core.where(Position.short) else dataset.apply(tf.data.experimental.assert_cardinality(length))


class _Passes:
    """Called, it is one pass over the client's batches. `form`: what every batch has to look like; None: TensorFlow checks it."""

    def __init__(self, client: FeederClient) -> None:
        self.form: Any = None
        self._client = client
        self._held: tuple[Any, Iterator[Any]] | None = None

    def look(self) -> Any:
        """The batch that comes first; the next pass hands it out."""
        client = self._client
        if client.num_batches == 0:
            raise ConfigError("this source has no batches: as_tf_dataset() needs an output_signature for it")
        if not client._core.in_runs:
            return client._core.get(0, Missing.STAND_IN)  # outside of a pass: looked at, see order.py
        run = iter(client)
        for batch in run:
            self._held = (batch, run)
            return batch
        raise SourceError("the stream ended without giving a batch")

    def __call__(self) -> Iterator[Any]:
        held, self._held = self._held, None
        if held is None:
            yield from map(self._checked, self._client._iterate(Missing.STAND_IN))  # its length was promised
            return
        first, run = held
        del held
        yield self._checked(first)
        del first  # else its block would be held for the whole pass
        yield from map(self._checked, run)

    def _checked(self, batch: Any) -> Any:
        found = tensor_form(keras_form(batch))
        # numpy_function would cast to the type it expects without a word, also float to int.
        if self.form is not None and (form := form_of(found)) != self.form:
            raise TypeError(
                f"a batch is {form}, and the first one was {self.form}: in a tf.data.Dataset all have one structure, with the same dtypes "
                "and ranks"
            )
        return found


@dataclass(frozen=True, slots=True)
class Leaf:
    """What all batches have in common at one place."""

    dtype: str
    rank: int

    def __repr__(self) -> str:
        return f"{self.dtype} of rank {self.rank}"


def tensor_form(item: Any) -> Any:
    """A batch in `keras_form`, with an array at every place where TensorFlow wants a tensor, and no lists."""
    if isinstance(item, (tuple, list)):
        return tuple(tensor_form(part) for part in item)
    if isinstance(item, dict):
        return {key: tensor_form(part) for key, part in item.items()}
    return item if item is None or isinstance(item, np.ndarray) else np.asarray(item)


def form_of(item: Any) -> Any:
    """The structure of a batch in `tensor_form`, to be compared."""
    if isinstance(item, tuple):
        return tuple(form_of(part) for part in item)
    if isinstance(item, dict):
        return {key: form_of(part) for key, part in item.items()}
    return None if item is None else Leaf("string" if item.dtype.kind in "SU" else item.dtype.name, item.ndim)


def spec_of(item: Any, tf: ModuleType, path: str = "batch") -> Any:
    """What from_generator is told about a batch in `tensor_form`.

    Raises:
        UnsupportedBatch: TensorFlow has no such type.
    """
    if isinstance(item, tuple):
        return tuple(spec_of(part, tf, f"{path}[{i}]") for i, part in enumerate(item))
    if isinstance(item, dict):
        return {key: spec_of(part, tf, f"{path}[{key!r}]") for key, part in item.items()}
    if item is None:
        return tf.NoneTensorSpec()
    try:
        dtype = tf.string if item.dtype.kind in "SU" else tf.as_dtype(item.dtype)
    except TypeError:
        dtype = None
    if dtype is None or item.dtype.kind == "O":
        raise UnsupportedBatch(f"{path} is of dtype {item.dtype}, which TensorFlow doesn't have: as_tf_dataset() can't hand it out")
    return tf.TensorSpec([None] * item.ndim, dtype)
