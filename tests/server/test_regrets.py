"""What a batch looks like in words, and what its user is warned of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from feeder_server.regrets import describe
from feeder_server.sample import MOST_LINES, cut, from_text, listed, size_text, to_text
from feeder_wire.errors import UnsupportedBatch

NOISE = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        (NOISE.random((4, 64, 64, 3)), ["float64", "float32 needs 0.197 MB", "astype('float32')"]),
        (NOISE.integers(0, 255, (4, 64, 64, 3)), ["int64 with shape (4, 64, 64, 3)", "uint8 would need 49.2 kB"]),
        (np.zeros((4, 512, 512), np.uint8), ["100% 0", "1.05 MB"]),
    ],
    ids=["float64", "int64 image", "constant"],
)
def test_a_batch_that_is_regretted(leaf: Any, words: list[str]) -> None:
    sample = describe((leaf, {"label": np.arange(4, dtype=np.float32)}))
    (warning,) = sample.warnings
    assert warning.startswith("batch[0] is ") and all(word in warning for word in words)


def one_channel_black() -> Any:
    """Pictures of which one channel in four is empty, in a shape whose size is a power of two."""
    made = NOISE.integers(1, 255, (8, 256, 256, 4), np.uint8)
    made[..., 0] = 0
    return made


def black_border() -> Any:
    """Pictures that are empty on the left, and above."""
    made = NOISE.integers(1, 255, (32, 256, 256), np.uint8)
    made[..., 0] = made[:, :20] = 0
    return made


@pytest.mark.parametrize(
    "leaf",
    [
        NOISE.random((4, 64, 64, 3), np.float32),
        NOISE.integers(0, 255, (4, 64, 64, 3), np.uint8),
        np.arange(4),
        np.zeros((4, 3)),
        NOISE.integers(0, 255, (512, 4096), np.uint8),
        NOISE.integers(0, 9, (4, 3, 2)),
        NOISE.integers(-(1 << 62), 1 << 62, (4, 32, 32)),
        one_channel_black(),
        black_border(),
        black_border().transpose(1, 0, 2),
        "text",
    ],
    ids=["float32", "uint8", "ids", "few", "noise", "few ints", "hashes", "channel", "border", "not contiguous", "text"],
)
def test_a_batch_that_is_not(leaf: Any) -> None:
    assert describe((leaf, None)).warnings == ()


def test_what_would_be_enough_for_integers() -> None:
    """Never a type that can't hold them."""
    depth = NOISE.integers(0, 5000, (4, 64, 64))
    assert "uint16 would need 32.8 kB" in describe(depth).warnings[0]
    assert "int16 would need" in describe(depth - 2000).warnings[0]


def test_one_hot_is_mostly_zero() -> None:
    classes = np.eye(40, dtype=np.float32)[NOISE.integers(0, 40, (4, 64, 64))]
    (warning,) = describe((classes,)).warnings
    assert "% 0.0: 2.62 MB per batch" in warning and "class numbers" in warning


def test_lines_name_what_is_there() -> None:
    sample = describe(({"image": np.zeros((2, 8, 8, 3), np.float32)}, 3))
    assert sample.lines[0].split() == ["batch[0]['image']", "float32", "(2,", "8,", "8,", "3)", "1.54", "kB"]
    assert sample.nbytes == 2 * 8 * 8 * 3 * 4
    assert listed("train", sample)[0] == "source 'train' gives batches of 1.54 kB:"


def test_many_leaves_are_counted() -> None:
    sample = describe([np.zeros(2)] * 1000)
    assert len(sample.lines) == MOST_LINES + 1 and sample.lines[-1] == "and 980 more"


def test_what_cannot_be_sent() -> None:
    with pytest.raises(UnsupportedBatch):
        describe(np.array([object()]))


def test_as_text_and_back() -> None:
    sample = describe((np.zeros((4, 512, 512)), "ü"))
    assert from_text(to_text(sample)) == sample
    for text in (
        "",
        "{}",
        "[]",
        '{"lines": [1], "nbytes": 1, "warnings": [], "generators": []}',
        '{"lines": [], "nbytes": "1", "warnings": [], "generators": []}',
    ):
        with pytest.raises(ValueError, match=r"."):
            from_text(text)


def test_long_lists_are_cut() -> None:
    assert cut([]) == () and cut(["a"] * MOST_LINES) == ("a",) * MOST_LINES
    assert cut([str(i) for i in range(MOST_LINES + 3)])[-2:] == (str(MOST_LINES - 1), "and 3 more")


@pytest.mark.parametrize(
    ("nbytes", "words"),
    [
        (0, "0 bytes"),
        (99, "99 bytes"),
        (100, "0.1 kB"),
        (98_304, "98.3 kB"),
        (393_248, "0.393 MB"),
        (38_535_168, "38.5 MB"),
        (5e9, "5,000 MB"),
    ],
)
def test_sizes(nbytes: int, words: str) -> None:
    assert size_text(nbytes) == words
