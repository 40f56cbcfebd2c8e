"""Blocks of the arena: both ends in one process, and real second processes where only they can show it."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeder_wire import arena
from feeder_wire.arena import ArenaFullError, ArenaReader, ArenaWriter, block_size
from feeder_wire.errors import ProtocolError
from feeder_wire.messages import BLOCK_NAME

PAGE = mmap.PAGESIZE
MB = 1 << 20
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="space is reserved by posix_fallocate only there")


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """Two directories of an arena."""
    made = [tmp_path / "fast", tmp_path / "slow"]
    for path in made:
        path.mkdir(mode=0o700)
    return [str(path) for path in made]


@pytest.fixture
def make_writer(places: list[str]) -> Iterator[Callable[..., ArenaWriter]]:
    """Makes writers that are closed after the test."""
    made: list[ArenaWriter] = []

    def make(slot: int = 0, generation: int = 1, budget_bytes: int = 1 << 30) -> ArenaWriter:
        made.append(ArenaWriter(places, slot, generation, budget_bytes))
        return made[-1]

    yield make
    for writer in made:
        writer.close()


def files(folder: str | Path) -> set[str]:
    return {name for name in os.listdir(folder) if name not in ("alive", "nonce")}


class TestBlockSize:
    @given(st.integers(0, 1 << 45))
    def test_fits_in_whole_pages_and_wastes_little(self, nbytes: int) -> None:
        size = block_size(nbytes)
        assert size >= max(nbytes, 1)
        assert size % PAGE == 0
        assert size - nbytes < max(PAGE, nbytes / 8) or nbytes == 0

    @given(st.integers(0, 1 << 45), st.integers(0, 1 << 45))
    def test_larger_payloads_never_get_smaller_blocks(self, a: int, b: int) -> None:
        assert (block_size(a) <= block_size(b)) == (a <= b) or block_size(a) == block_size(b)

    def test_is_its_own_class(self) -> None:
        assert all(block_size(block_size(n)) == block_size(n) for n in (0, 1, PAGE, PAGE + 1, 10**6, 38_535_680))

    def test_makes_eight_classes_per_doubling(self) -> None:
        assert len({block_size(n) for n in range(MB + 1, 2 * MB + 1, 97)}) == 8


class TestTakingAndGivingBack:
    def test_a_block_is_writable_private_and_as_large_as_it_says(self, make_writer: Callable[..., ArenaWriter], places: list[str]) -> None:
        block = make_writer().take(100_000)
        assert block.size == len(block.view) == block_size(100_000)
        block.view[block.size - 1] = 7
        info = (Path(places[0]) / block.name).stat()
        assert info.st_size == block.size
        if sys.platform != "win32":
            assert stat.S_IMODE(info.st_mode) == 0o600

    def test_names_tell_place_worker_and_generation_and_never_repeat(self, make_writer: Callable[..., ArenaWriter]) -> None:
        old, new, other = make_writer(3, 1), make_writer(3, 2), make_writer(4, 1)
        names = [w.take(1).name for w in (old, new, other) for _ in range(3)]
        assert len(set(names)) == 9
        assert all(BLOCK_NAME.fullmatch(n) for n in names)
        assert names[0].startswith("0-3-1-")
        assert names[3].startswith("0-3-2-")
        assert names[6].startswith("0-4-1-")

    def test_a_block_comes_back_for_a_like_size(self, make_writer: Callable[..., ArenaWriter]) -> None:
        writer = make_writer()
        first = writer.take(100_000)
        assert writer.take(100_000).name != first.name, "it is lent"
        writer.give_back([first.name])
        assert writer.take(99_000) is first

    def test_the_smallest_that_fits_is_taken(self, make_writer: Callable[..., ArenaWriter]) -> None:
        writer = make_writer()
        large, small = writer.take(18 * PAGE), writer.take(12 * PAGE)
        writer.give_back([large.name, small.name])
        assert writer.take(10 * PAGE) is small
        assert writer.take(10 * PAGE) is large

    def test_a_much_larger_block_is_not_wasted_on_little(self, make_writer: Callable[..., ArenaWriter]) -> None:
        writer = make_writer()
        large = writer.take(MB)
        writer.give_back([large.name])
        assert writer.take(PAGE) is not large
        assert writer.take(MB) is large

    def test_names_that_are_not_lent_are_ignored(self, make_writer: Callable[..., ArenaWriter]) -> None:
        writer = make_writer()
        block = writer.take(1)
        writer.give_back(["0-9-9-9", "../../etc/passwd", ""])
        writer.retire(["0-9-9-9"])
        assert writer.take(1) is not block
        writer.give_back([block.name, block.name])
        assert writer.take(1) is block
        assert writer.take(1) is not block, "given back twice, it is free once"

    def test_a_retired_block_is_never_written_again(self, make_writer: Callable[..., ArenaWriter], places: list[str]) -> None:
        writer, reader = make_writer(), ArenaReader(places)
        block = writer.take(PAGE)
        block.view[:5] = b"child"
        seen = np.frombuffer(reader.map(block.name, block.size), np.uint8)
        writer.retire([block.name])
        writer.give_back([block.name])  # comes late, and changes nothing
        for _ in range(5):
            fresh = writer.take(PAGE)
            assert fresh.name != block.name
            fresh.view[:5] = b"other"
        assert seen[:5].tobytes() == b"child"
        assert writer.dropped == [block.name], "the readers hear of it"
        if sys.platform == "win32":  # which removes no file that is mapped: it goes when the last view has gone, and one more is made
            assert block.name in files(places[0])
            del seen
            reader.forget([block.name])
            writer.take(PAGE)
        assert block.name not in files(places[0])

    def test_free_blocks_of_other_sizes_make_room_within_the_budget(
        self, make_writer: Callable[..., ArenaWriter], places: list[str]
    ) -> None:
        writer = make_writer(budget_bytes=4 * MB)
        oldest, newer = writer.take(MB), writer.take(MB)
        writer.give_back([oldest.name, newer.name])
        assert writer.owned_bytes() == 2 * MB
        assert not writer.dropped
        writer.take(3 * MB)
        assert writer.dropped == [oldest.name]
        assert writer.owned_bytes() == 4 * MB
        assert files(places[0]) == {newer.name, *(b for b in writer._lent)}

    def test_the_budget_never_takes_a_lent_block_nor_refuses_one(self, make_writer: Callable[..., ArenaWriter]) -> None:
        writer = make_writer(budget_bytes=1)
        held = [writer.take(MB) for _ in range(3)]
        assert writer.owned_bytes() == 3 * MB
        assert not writer.dropped
        writer.give_back([held[0].name])
        assert writer.take(MB) is held[0], "one that fits is used, whatever the budget"

    def test_close_unmaps_and_views_live_on(self, make_writer: Callable[..., ArenaWriter]) -> None:
        writer = make_writer()
        viewed, plain = writer.take(PAGE), writer.take(PAGE)
        view = np.frombuffer(viewed.view, np.uint8)
        view[:] = 9
        writer.close()
        assert plain.view.closed
        assert not viewed.view.closed
        assert view.sum() == 9 * PAGE
        assert writer.owned_bytes() == 0
        writer.close()


class TestAFullArena:
    def full(self, monkeypatch: pytest.MonkeyPatch, *folders: str) -> list[str]:
        """Lets these folders be full. Returns what was tried."""
        tried: list[str] = []
        real = arena.map_new

        def map_new(path: Path, size: int) -> mmap.mmap:
            tried.append(str(path.parent))
            if str(path.parent) in folders:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(path, size)

        monkeypatch.setattr(arena, "map_new", map_new)
        return tried

    @on_linux
    def test_no_space_leaves_no_file_and_no_descriptor(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_space(fd: int, offset: int, size: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", no_space)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="No space"):
            arena.map_new(tmp_path / "0-0-1-1", PAGE)
        assert not os.listdir(tmp_path)
        assert len(os.listdir("/proc/self/fd")) == before

    @on_linux
    def test_pages_are_reserved_and_not_only_promised(self, make_writer: Callable[..., ArenaWriter], places: list[str]) -> None:
        block = make_writer().take(MB)
        assert (Path(places[0]) / block.name).stat().st_blocks * 512 >= MB

    def test_without_fallocate_the_free_space_is_asked_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
        arena.map_new(tmp_path / "0-0-1-1", PAGE).close()
        assert (tmp_path / "0-0-1-1").stat().st_size == PAGE
        monkeypatch.setattr(arena, "free_bytes", lambda folder: PAGE)
        with pytest.raises(OSError, match="no space left"):
            arena.map_new(tmp_path / "0-0-1-2", PAGE + 1)
        assert os.listdir(tmp_path) == ["0-0-1-1"]

    def test_the_second_directory_helps_out(
        self, make_writer: Callable[..., ArenaWriter], places: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.full(monkeypatch, places[0])
        writer, reader = make_writer(), ArenaReader(places)
        block = writer.take(PAGE)
        block.view[:2] = b"hi"
        assert block.name.startswith("1-")
        assert files(places[1]) == {block.name}
        assert not files(places[0])
        assert reader.map(block.name, block.size)[:2] == b"hi"

    def test_free_blocks_are_given_up_before_it_fails(
        self, make_writer: Callable[..., ArenaWriter], places: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer = make_writer()
        lent, free = writer.take(PAGE), [writer.take(PAGE) for _ in range(3)]
        writer.give_back([b.name for b in free])
        tried = self.full(monkeypatch, *places)
        with pytest.raises(ArenaFullError):
            writer.take(MB)
        assert tried == [*places, *places], "once as it is, once with nothing free left"
        assert sorted(writer.dropped) == sorted(b.name for b in free)
        assert files(places[0]) == {lent.name}

    def test_giving_up_free_blocks_may_be_enough(
        self, make_writer: Callable[..., ArenaWriter], places: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer = make_writer()
        free = writer.take(MB)
        writer.give_back([free.name])
        real = arena.map_new

        def map_new(path: Path, size: int) -> mmap.mmap:
            if files(places[0]):
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(path, size)

        monkeypatch.setattr(arena, "map_new", map_new)
        assert writer.take(8 * MB).size == 8 * MB

    def test_the_error_says_what_was_asked_and_what_is_free_where(
        self, make_writer: Callable[..., ArenaWriter], places: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.full(monkeypatch, *places)
        monkeypatch.setattr(arena, "free_bytes", lambda folder: 64_000_000 if str(folder) == places[0] else 0)
        with pytest.raises(ArenaFullError) as caught:
            make_writer().take(40 * MB)
        assert str(caught.value) == f"no room for a batch of 41.9 MB: {places[0]} has 64 MB free, {places[1]} has 0 MB free"

    def test_a_block_that_cannot_be_removed_yet_is_tried_again(
        self, make_writer: Callable[..., ArenaWriter], places: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As on Windows, while a reader has it mapped.
        writer = make_writer()
        block = writer.take(PAGE)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", lambda path, missing_ok=False: (_ for _ in ()).throw(PermissionError(13, "in use")))
            writer.retire([block.name])
            writer.take(PAGE)
        assert block.name in files(places[0])
        writer.take(PAGE)
        assert block.name not in files(places[0])


class TestReader:
    def test_sees_what_was_written_and_keeps_the_mapping(self, make_writer: Callable[..., ArenaWriter], places: list[str]) -> None:
        writer, reader = make_writer(), ArenaReader(places)
        block = writer.take(PAGE)
        block.view[:5] = b"batch"
        mapped = reader.map(block.name, block.size)
        assert mapped[:5] == b"batch"
        assert reader.map(block.name, 10) is mapped
        block.view[:5] = b"again"
        assert mapped[:5] == b"again"

    def test_the_start_of_a_block_is_aligned(self, make_writer: Callable[..., ArenaWriter], places: list[str]) -> None:
        block = make_writer().take(PAGE)
        assert np.frombuffer(ArenaReader(places).map(block.name, block.size), np.uint8).ctypes.data % 64 == 0

    def test_a_mapping_that_is_too_small_is_made_anew(self, make_writer: Callable[..., ArenaWriter], places: list[str]) -> None:
        block, reader = make_writer().take(4 * PAGE), ArenaReader(places)
        assert len(reader.map(block.name, PAGE)) == PAGE
        assert len(reader.map(block.name, 4 * PAGE)) == 4 * PAGE

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "x",
            "../0-0-1-1",
            "0-0-1-1/..",
            "0-0-1-1\n",
            "0-0-1",
            "2-0-1-1",
            "nonce",
            "alive",
            "/etc/passwd",
            "0-0-1-" + "1" * 13,
            "٠-0-1-1",
        ],
    )
    def test_other_names_are_refused(self, places: list[str], name: str) -> None:
        with pytest.raises(ProtocolError, match="is not the name of a block"):
            ArenaReader(places).map(name, 1)

    def test_a_place_that_was_not_offered_is_refused(self, places: list[str]) -> None:
        with pytest.raises(ProtocolError, match="is not the name of a block"):
            ArenaReader(places[:1]).map("1-0-1-1", 1)

    def test_a_block_that_is_not_there_is_refused(self, places: list[str]) -> None:
        with pytest.raises(ProtocolError, match="0-0-1-1 can't be mapped"):
            ArenaReader(places).map("0-0-1-1", 1)

    def test_a_file_smaller_than_announced_is_refused(self, make_writer: Callable[..., ArenaWriter], places: list[str]) -> None:
        # Reading beyond the end of a mapped file is a SIGBUS, not an exception.
        block = make_writer().take(PAGE)
        with pytest.raises(ProtocolError, match="smaller than the 4097 bytes announced" if PAGE == 4096 else "smaller"):
            ArenaReader(places).map(block.name, PAGE + 1)

    def test_an_empty_file_is_refused(self, places: list[str]) -> None:
        (Path(places[0]) / "0-0-1-1").touch()
        with pytest.raises(ProtocolError):
            ArenaReader(places).map("0-0-1-1", 0)

    @posix
    def test_a_link_to_somebodys_file_is_refused(self, places: list[str], tmp_path: Path) -> None:
        (tmp_path / "precious").write_bytes(b"mine" * PAGE)
        os.symlink(tmp_path / "precious", Path(places[0]) / "0-0-1-1")
        with pytest.raises(ProtocolError, match="can't be mapped"):
            ArenaReader(places).map("0-0-1-1", 4)

    @posix
    def test_a_pipe_and_a_folder_are_refused(self, places: list[str]) -> None:
        os.mkfifo(Path(places[0]) / "0-0-1-1")
        (Path(places[0]) / "0-0-1-2").mkdir()
        for name in ("0-0-1-1", "0-0-1-2"):
            with pytest.raises(ProtocolError):
                ArenaReader(places).map(name, 1)

    def test_views_survive_forget_and_close(self, make_writer: Callable[..., ArenaWriter], places: list[str]) -> None:
        writer, reader = make_writer(), ArenaReader(places)
        views = []
        for number in range(2):
            block = writer.take(PAGE)
            block.view[:] = bytes([number + 1]) * PAGE
            views.append(np.frombuffer(reader.map(block.name, block.size), np.uint8))
        first, second = writer._lent
        reader.forget([first, "unknown"])
        writer.retire([first])
        assert views[0].sum() == PAGE
        if sys.platform != "win32":  # which removes no file that is mapped
            with pytest.raises(ProtocolError):
                reader.map(first, PAGE)
        reader.close()
        writer.retire([second])
        assert views[1].sum() == 2 * PAGE


class TestSameHost:
    @pytest.fixture
    def offered(self, places: list[str]) -> list[str]:
        (Path(places[0]) / "nonce").write_text("c0ffee", encoding="ascii")
        return places

    def test_who_can_read_the_nonce_is_on_the_same_host(self, offered: list[str]) -> None:
        assert ArenaReader(offered).same_host("c0ffee")

    @pytest.mark.parametrize("nonce", ["", "c0ffe", "c0ffee0", "C0FFEE"])
    def test_another_nonce_is_another_host(self, offered: list[str], nonce: str) -> None:
        assert not ArenaReader(offered).same_host(nonce)

    def test_an_empty_nonce_never_matches(self, places: list[str]) -> None:
        (Path(places[0]) / "nonce").touch()
        assert not ArenaReader(places).same_host("")

    def test_nothing_offered_nothing_there_or_no_folder(self, offered: list[str], tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert not ArenaReader([]).same_host("c0ffee")
        for other in (str(tmp_path / "gone"), str(tmp_path / "file"), "nul\0byte"):
            assert not ArenaReader([other]).same_host("c0ffee")
            assert not ArenaReader([offered[0], other]).same_host("c0ffee"), "each of them is looked at"

    def test_a_nonce_that_is_no_text(self, places: list[str]) -> None:
        (Path(places[0]) / "nonce").write_bytes(b"\xff\xfe")
        assert not ArenaReader(places).same_host("c0ffee")

    @posix
    def test_a_link_to_a_folder_is_not_followed(self, offered: list[str], tmp_path: Path) -> None:
        os.symlink(offered[0], tmp_path / "link")
        assert not ArenaReader([str(tmp_path / "link")]).same_host("c0ffee")

    @posix
    def test_another_users_folder_is_not_trusted(self, offered: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        me = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: me + 1)
        assert not ArenaReader(offered).same_host("c0ffee")
