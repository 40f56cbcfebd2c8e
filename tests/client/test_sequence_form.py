"""`keras_form`: what a source gave becomes what Keras takes (docs/architecture.md). Nothing else of it may change."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_client.forms import keras_form

X, Y, W = np.zeros((4, 2), np.float32), np.arange(4), np.ones(4)


def same(left: Any, right: Any) -> bool:
    """Same structure, same types of containers, and the very same arrays."""
    if type(left) is not type(right):
        return False
    if isinstance(left, (tuple, list)):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[k], right[k]) for k in left)
    return left is right or (not isinstance(left, np.ndarray) and left == right)


class TestStructure:
    @pytest.mark.parametrize(
        ("given", "taken"),
        [
            ((X, Y), (X, Y)),
            ((X, Y, W), (X, Y, W)),
            ((X,), (X,)),
            ([X, Y], [X, Y]),  # a list at the top means (x, y, sample_weight) to Keras 3
            ([X, Y, W], [X, Y, W]),
            (X, X),
            ({"a": X, "b": Y}, {"a": X, "b": Y}),
            (([X, X], [Y, Y]), ((X, X), (Y, Y))),  # nested lists: refused on TensorFlow
            (([X, [X, (X, [Y])]], Y), ((X, (X, (X, (Y,)))), Y)),
            ([[X, X], Y], [(X, X), Y]),
            (({"a": [X, Y]}, Y), ({"a": (X, Y)}, Y)),
            ({"a": [X], "b": {"c": [Y]}}, {"a": (X,), "b": {"c": (Y,)}}),
            ((X, None), (X,)),  # refused on TensorFlow; what is missing at the end means the same
            ((X, Y, None), (X, Y)),
            ((X, None, None), (X,)),
            ([X, Y, None], [X, Y]),
            ((X, None, W), (X, None, W)),  # in the middle it keeps the weights in their place
            ((None,), (None,)),
            ((None, None), (None,)),
            ((None, Y), (None, Y)),
            (((X, None), Y), ((X, None), Y)),  # only the end of the batch is an end
            (({"a": None}, Y), ({"a": None}, Y)),
            (None, None),
            ((), ()),
            ([], []),
            ({}, {}),
            (({}, Y), ({}, Y)),  # empty dicts survive
            (([], Y), ((), Y)),
            ((X, 3, "text", 2.5), (X, 3, "text", 2.5)),
        ],
    )
    def test_form(self, given: Any, taken: Any) -> None:
        assert same(keras_form(given), taken)

    def test_a_named_tuple_is_a_tuple(self) -> None:
        class Pair(NamedTuple):
            x: Any
            y: Any

        assert same(keras_form((Pair(X, X), Y)), ((X, X), Y))
        assert same(keras_form(Pair(X, None)), (X, None))

    def test_the_batch_itself_is_left_alone(self) -> None:
        # A batch that was looked at is handed out again.
        inner = [X, X]
        batch = [inner, Y, None]
        keras_form(batch)
        assert batch[0] is inner
        assert len(batch) == 3
        assert type(inner) is list

    def test_twice_is_once(self) -> None:
        once = keras_form(([X, X.T], {"a": [Y]}, None))
        assert same(keras_form(once), once)

    arrays = st.sampled_from([X, Y, W])

    @given(
        st.recursive(arrays | st.none(), lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple), max_leaves=8)
    )
    def test_nothing_is_split_joined_or_reordered(self, batch: Any) -> None:
        def leaves(item: Any) -> list[Any]:
            return [leaf for part in item for leaf in leaves(part)] if isinstance(item, (tuple, list)) else [item]

        before, after = leaves(batch), leaves(keras_form(batch))
        assert len(after) <= len(before)
        assert all(a is b for a, b in zip(before, after, strict=False))
        assert all(leaf is None for leaf in before[len(after) :])


class TestArrays:
    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((2, 3)),
            np.zeros(3, np.int64),
            np.array(2.5),  # a leading axis that is no batch axis, or none at all
            np.zeros((0, 5), np.float32),
            np.zeros((3, 0)),
            np.zeros(2, np.float16),
            np.zeros(2, bool),
            np.zeros(2, "U3"),
            np.zeros(2, np.complex64),
            np.zeros((4, 4))[:2],
            np.zeros(2, [("a", "f4")]),
            np.zeros(3, "u1").view("|u1"),
        ],
        ids=lambda a: f"{a.dtype}{a.shape}",
    )
    def test_what_is_fine_stays_the_same_object(self, array: np.ndarray[Any, Any]) -> None:
        for batch in (array, (array, Y), [array], {"a": array}, ([array], Y)):
            found = keras_form(batch)
            while found is not array:
                found = next(iter(found.values())) if isinstance(found, dict) else found[0]

    @pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i2", "i4", "i8", "u4", "c8", "U3", "M8[s]"])
    def test_foreign_byte_order_becomes_native(self, kind: str) -> None:
        # JAX and torch refuse it.
        native = np.array([1, 2, 3]).astype(np.dtype(kind).newbyteorder("="))
        foreign = native.astype(native.dtype.newbyteorder("S"))
        assert not foreign.dtype.isnative
        found = keras_form((foreign, Y))[0]
        assert found.dtype.isnative
        assert found.dtype == native.dtype
        assert (found == native).all()

    def test_foreign_byte_order_inside_of_structures_and_without_dimension(self) -> None:
        nested = keras_form(({"a": [np.arange(3, dtype=">f4")]}, Y))[0]["a"][0]
        assert nested.dtype == np.float32
        assert nested.dtype.isnative
        assert nested.tolist() == [0, 1, 2]
        scalar = keras_form(np.array(7, ">i8"))
        assert scalar.shape == ()
        assert scalar.dtype.isnative
        assert scalar == 7
        struct = keras_form(np.array([(1, 2.0)], [("a", ">i4"), ("b", ">f8")]))
        assert struct.dtype.isnative
        assert struct[0]["a"] == 1
        assert struct[0]["b"] == 2.0

    @pytest.mark.parametrize(
        "array",
        [
            np.arange(6).reshape(2, 3).T,
            np.arange(8)[::2],
            np.arange(8)[::-1],
            np.asfortranarray(np.ones((3, 4, 5))),
            np.broadcast_to(np.ones(3), (2, 3)),
        ],
    )
    def test_other_layouts_become_contiguous(self, array: np.ndarray[Any, Any]) -> None:
        found = keras_form((array, Y))[0]
        assert found.flags.c_contiguous
        assert found.shape == array.shape
        assert found.dtype == array.dtype
        assert (found == array).all()

    def test_both_at_once(self) -> None:
        found = keras_form(np.arange(6, dtype=">f8").reshape(2, 3).T)
        assert found.flags.c_contiguous
        assert found.dtype.isnative
        assert found.tolist() == [[0, 3], [1, 4], [2, 5]]
