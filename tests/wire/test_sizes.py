"""Sizes as users write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_wire.errors import ConfigError
from feeder_wire.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 << 30),
        ("2 GiB", 2 << 30),
        ("  512mib\n", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("500 MB", 500_000_000),
        ("1gb", 10**9),
        ("1TB", 10**12),
        ("1TiB", 1 << 40),
        ("1024KiB", 1 << 20),
        ("2000kb", 2_000_000),
        ("1048576", 1 << 20),
        ("2000000 b", 2_000_000),
    ],
)
def test_what_is_meant(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", " ", "GiB", "1 GiB 2", "-1GiB", "+1GiB", "1,5GiB", "1.GiB", ".5GiB", "1e9", "0x100000", "1 Gi", "nan", "inf", "١GiB", "1_000_000"],
)
def test_no_size(text: str) -> None:
    with pytest.raises(ConfigError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["0", "1048575", "1023KiB", "0.5MiB", "7"])
def test_too_small_for_a_batch(text: str) -> None:
    with pytest.raises(ConfigError, match="at least 1MiB"):
        parse_size(text)


@given(st.text(max_size=30) | st.text("0123456789.kMGTiB ", max_size=500) | st.integers(300, 600).map(lambda n: "9" * n))
def test_never_another_error(text: str) -> None:
    size, refusal = None, ""
    try:
        size = parse_size(text)
    except ConfigError as e:
        refusal = str(e)
    assert len(refusal) < 250
    assert size is None or size >= 1 << 20
