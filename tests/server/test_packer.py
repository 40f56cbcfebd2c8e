"""When packing pays, and that a worker asks only now and then."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from feeder_server import packer
from feeder_server.packer import Packer, Trial, best
from feeder_wire import codec, packing

MB = 1 << 20
LZ4, ZSTD = Trial("lz4", 0.6, 0.03), Trial("zstd", 0.4, 0.08)  # of a batch of 10 MB


@pytest.mark.parametrize(
    ("line", "seconds", "workers", "expected"),
    [
        (2 * MB, 0.05, 4, "zstd"),  # five seconds on the line: the less the better
        (100 * MB, 0.05, 4, "zstd"),  # 100 ms on the line; 40 ms with zstd, and the workers have time for it
        (100 * MB, 0.05, 1, "lz4"),  # one worker takes 130 ms with zstd, and 80 with lz4
        (100 * MB, 0.2, 1, ""),  # the worker is the limit
        (1000 * MB, 0.05, 4, ""),  # the line is quick
        (100 * MB, 0.05, 100, "zstd"),
        (0, 5.0, 1, "zstd"),  # wanted at any price
    ],
)
def test_what_pays(line: int, seconds: float, workers: int, expected: str) -> None:
    assert best([LZ4, ZSTD], 10 * MB, line, seconds, workers) == expected


def test_a_client_that_would_be_busy_unpacking() -> None:
    assert best([Trial("zstd", 0.1, 1.0)], 10 * MB, 100 * MB, 0.0, 100) == ""


def test_nothing_to_choose_from() -> None:
    assert best([], MB, 100, 1.0, 1) == best([], MB, 0, 1.0, 1) == ""


class TestWorker:
    """On batches, with methods that are counted."""

    @pytest.fixture(autouse=True)
    def counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []

        def pack(head: bytes, data: bytearray, method: str) -> tuple[bytes, bytes] | None:
            self.calls.append(method)
            return (b"\x02" + method.encode() + head, bytes(len(data) // (2 if method == "lz4" else 4))) if data[0] == 0 else None

        monkeypatch.setattr(packing, "pack", pack)

    def batch(self, value: int = 0, nbytes: int = MB) -> codec.Encoded:
        return codec.encode(np.full(nbytes, value, np.uint8))

    def pack(self, made: Packer, encoded: Any, line: int, session: bytes = b"s", methods: tuple[str, ...] = ("lz4", "zstd")) -> Any:
        return made.pack((0, session), encoded, methods, line, 0.0, 4)

    def test_a_sample_now_and_then(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setattr(packer, "SAMPLE_EVERY", 5)
        caplog.set_level(logging.INFO)
        made = Packer()
        for _ in range(7):
            assert self.pack(made, self.batch(), 1000)[0].startswith(b"\x02zstd")
        assert self.calls == ["lz4", "zstd", *["zstd"] * 5, "lz4", "zstd"]
        assert caplog.text.count("batches are packed with zstd to 25 % of their size, for a line of 0.0 MB/s") == 1

    def test_another_line_another_choice(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        made = Packer()
        assert self.pack(made, self.batch(), 10_000) is not None
        assert self.pack(made, self.batch(), 12_000) is not None
        assert len(self.calls) == 3
        assert self.pack(made, self.batch(), 1 << 50) is None
        assert self.pack(made, self.batch(), 1 << 50) is None
        assert len(self.calls) == 5
        assert "batches aren't packed any more" in caplog.text

    def test_what_does_not_get_smaller_is_left_alone(self) -> None:
        made = Packer()
        for _ in range(10):
            assert self.pack(made, self.batch(255), 1000) is None
        assert self.calls == ["lz4", "zstd"]

    def test_small_batches_and_clients_that_take_nothing(self) -> None:
        made = Packer()
        assert self.pack(made, self.batch(nbytes=1000), 1000) is None
        assert self.pack(made, self.batch(), 1000, methods=()) is None
        assert not self.calls

    def test_sessions_have_their_own(self) -> None:
        made = Packer()
        assert self.pack(made, self.batch(), 1000) is not None
        assert self.pack(made, self.batch(), 1 << 50, b"t") is None
        assert self.pack(made, self.batch(), 1000, b"u", ("lz4",))[0].startswith(b"\x02lz4")
        made.drop(b"s")
        assert [session for _, session in made._chosen] == [b"t", b"u"]
