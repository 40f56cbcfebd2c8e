"""Packed payloads: they come out as they went in, and whoever lies about them gets no memory for it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from feeder_wire import codec, packing
from feeder_wire.errors import FeederError, ProtocolError
from feeder_wire.packing import METHODS, MOST_TIMES, is_packed, pack, unpack

zstandard = pytest.importorskip("zstandard")
block = pytest.importorskip("lz4.block")

MB = 1 << 20
BATCHES: dict[str, Any] = {
    "compressible": {"x": np.repeat(np.arange(MB // 8, dtype="i4"), 8), "y": [np.ones((3, 5), "f4", order="F"), "text", None]},
    "zeros": np.zeros(8 * MB, np.uint8),
    "odd": (np.zeros(1001, np.uint8), np.arange(7)),
}


def packed(batch: Any, method: str) -> tuple[bytes, Any, codec.Encoded]:
    encoded = codec.encode(batch)
    made = pack(encoded.head, encoded.to_bytes(), method)
    assert made is not None
    return made[0], np.frombuffer(made[1], np.uint8), encoded


def with_length(head: bytes, length: int) -> bytes:
    return head[:2] + length.to_bytes(8, "little") + head[10:]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", BATCHES)
def test_it_comes_out_as_it_went_in(name: str, method: str) -> None:
    head, data, encoded = packed(BATCHES[name], method)
    assert is_packed(head) and not is_packed(encoded.head)
    assert encoded.nbytes / MOST_TIMES <= len(data) < encoded.nbytes
    inner, payload = unpack(head, data)
    assert inner == encoded.head and bytes(payload) == bytes(encoded.to_bytes())
    assert payload.ctypes.data % 64 == 0 and payload.flags.writeable
    codec.decode(inner, payload)


@pytest.mark.parametrize("method", METHODS)
def test_what_gets_no_smaller_stays(method: str) -> None:
    noise = codec.encode(np.random.default_rng(0).integers(0, 256, MB).astype(np.uint8))
    assert pack(noise.head, noise.to_bytes(), method) is None
    assert pack(bytes(codec.MAX_HEAD), bytearray(100), method) is None


def test_lz4_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LZ4_MOST_BYTES", 1000)
    encoded = codec.encode(np.zeros(1001, np.uint8))
    assert pack(encoded.head, encoded.to_bytes(), "lz4") is None
    assert pack(encoded.head, encoded.to_bytes(), "zstd") is not None


HEAD = codec.encode(np.zeros(MB, np.uint8)).head
ZSTD = zstandard.ZstdCompressor(level=1)


def lying_frame(content: bytes, said: int) -> bytes:
    """A frame of Zstandard that says another size than it has: four bytes of it, after magic number and descriptor."""
    frame = bytearray(ZSTD.compress(content))
    parameters = zstandard.get_frame_parameters(bytes(frame))
    at = bytes(frame).index(parameters.content_size.to_bytes(4, "little"))
    frame[at : at + 4] = said.to_bytes(4, "little")
    return bytes(frame)


BOMBS: dict[str, tuple[str, bytes]] = {
    "zstd of more": ("zstd", ZSTD.compress(bytes(64 * MB))),
    "zstd of less": ("zstd", ZSTD.compress(bytes(MB - 1))),
    "zstd that says less than it has": ("zstd", lying_frame(bytes(64 * MB), MB)),
    "zstd that says more than it has": ("zstd", lying_frame(bytes(MB // 2), MB)),
    "zstd that says nothing": ("zstd", zstandard.ZstdCompressor(write_content_size=False).compress(bytes(MB))),
    "zstd twice": ("zstd", ZSTD.compress(bytes(MB)) * 2),
    "zstd with a skippable frame": ("zstd", b"\x50\x2a\x4d\x18\xff\xff\xff\xff" + ZSTD.compress(bytes(MB))),
    "zstd cut off": ("zstd", ZSTD.compress(bytes(MB))[:-5]),
    "zstd of nothing": ("zstd", b""),
    "zstd of nonsense": ("zstd", bytes(range(256))),
    "lz4 of more": ("lz4", block.compress(bytes(64 * MB), store_size=False)),
    "lz4 of less": ("lz4", block.compress(bytes(MB - 1), store_size=False)),
    "lz4 cut off": ("lz4", block.compress(bytes(MB), store_size=False)[:-5]),
    "lz4 of nothing": ("lz4", b""),
    "lz4 of nonsense": ("lz4", bytes(range(256))),
}


@pytest.mark.parametrize("name", BOMBS)
def test_another_size_than_the_head_says(name: str) -> None:
    method, data = BOMBS[name]
    head = packing.PACKED + bytes([METHODS.index(method)]) + len(data).to_bytes(8, "little") + HEAD
    filled = np.frombuffer(data + bytes(max(0, MB // MOST_TIMES - len(data))), np.uint8)
    with pytest.raises(ProtocolError):
        unpack(head, filled)


class TestHeads:
    """What is refused before anything is unpacked, or any room made for it."""

    def test_more_than_a_multiple_of_what_came(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(codec, "aligned_empty", lambda nbytes: pytest.fail("room was made"))
        for method in METHODS:
            head, data, _ = packed(np.zeros(MB, np.uint8), method)
            with pytest.raises(ProtocolError, match="bytes came of a batch"):
                unpack(head, data[: len(data) - 1])
            with pytest.raises(ProtocolError, match="bytes came of a batch"):
                unpack(with_length(head, len(data) + 1), data)

    @pytest.mark.parametrize("head", [b"\x02", b"\x02\x00" + bytes(8), b"\x02\x09" + bytes(8) + HEAD])
    def test_no_head(self, head: bytes) -> None:
        with pytest.raises(ProtocolError, match="no head"):
            unpack(head, np.zeros(MB, np.uint8))

    def test_a_head_that_the_codec_refuses(self) -> None:
        for inner in (b"\xc1", HEAD[:-1], b"\x02" + HEAD[1:]):
            with pytest.raises(ProtocolError):
                unpack(b"\x02\x01" + (1).to_bytes(8, "little") + inner, np.zeros(MB, np.uint8))

    def test_a_method_that_is_not_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        head, data, _ = packed(np.zeros(MB, np.uint8), "zstd")
        monkeypatch.setattr(packing, "available", lambda: ("lz4",))
        with pytest.raises(ProtocolError, match="zstd, which isn't installed"):
            unpack(head, data)

    def test_no_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def none(nbytes: int) -> Any:
            raise MemoryError

        head, data, _ = packed(np.zeros(MB, np.uint8), "zstd")
        monkeypatch.setattr(codec, "aligned_empty", none)
        with pytest.raises(ProtocolError, match="MemoryError"):
            unpack(head, data)


@pytest.mark.parametrize("method", METHODS)
def test_whatever_comes_is_a_batch_or_an_error(method: str) -> None:
    """Some thousand mutations: other bytes are other numbers at most, and nothing else than feeder's errors comes out."""
    chance = random.Random(4)
    head, data, _ = packed({"x": np.repeat(np.arange(200), 20), "y": "text"}, method)
    outcomes = set()
    for _ in range(3000):
        new_head, new_data = bytearray(head), bytearray(data.tobytes())
        for target in (new_head, new_data):
            for _ in range(chance.choice([0, 1, 1, 3])):
                at = chance.randrange(len(target))
                if chance.random() < 0.2:
                    del target[at : at + chance.randrange(8)]
                else:
                    target[at] = chance.randrange(256)
        if not new_data or not is_packed(bytes(new_head)):
            continue
        try:
            inner, payload = unpack(bytes(new_head), np.frombuffer(new_data, np.uint8))
            assert len(payload) == codec.payload_bytes(inner) <= MOST_TIMES * len(new_data)
            codec.decode(inner, payload)
            outcomes.add("a batch")
        except FeederError:
            outcomes.add("an error")
    assert outcomes == {"a batch", "an error"}
