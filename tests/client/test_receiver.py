"""What of the receiver can be tested without a node; the rest is in tests/transport and tests/system."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest

from feeder_client.receiver import to_keep
from feeder_wire.errors import ProtocolError


class Batch:
    """Something large."""


def fails() -> None:
    try:
        int("no number")
    except ValueError as e:
        raise ProtocolError(f"not a message: {e}") from e


def fails_while_it_handles_another() -> None:
    try:
        int("no number")
    except ValueError as e:
        raise ProtocolError(f"not a message: {e}") from None


@pytest.mark.parametrize("decode", [fails, fails_while_it_handles_another])
def test_an_error_that_is_kept_holds_nothing_else(decode: Callable[[], None]) -> None:
    """A block that is mapped stays mapped as long as somebody has it, and on Windows its folder with it."""

    def step() -> tuple[Exception, weakref.ref[Batch]]:
        batch = Batch()
        try:
            decode()
        except ProtocolError as e:
            return to_keep(e), weakref.ref(batch)
        raise AssertionError("it was decoded")

    error, batch = step()
    gc.collect()
    assert batch() is None
    assert str(error) == "not a message: invalid literal for int() with base 10: 'no number'"
