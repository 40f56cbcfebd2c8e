"""Maps the file of a block without keeping it open.

Before Python 3.13 a `mmap.mmap` of a file holds a descriptor of it for as long as it lives. A block is one file, and there are as many
as batches in somebody's hands: a training that keeps a thousand of them in a list (and be it for a plot) would run out of descriptors, of
which a process often has 1024, on macOS 256. So on POSIX memory is mapped first that belongs to no file, and then the file over it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from functools import cache
from typing import Any

OPEN_FLAGS = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_NOFOLLOW", 0)
"""How a file of ours is opened. O_NOFOLLOW: it is never a link to somebody's."""
CREATE_FLAGS = OPEN_FLAGS | os.O_CREAT | os.O_EXCL | getattr(os, "O_SHORT_LIVED", 0)
"""How one is made. O_SHORT_LIVED: Windows keeps it in memory while it can."""
_MAP_FIXED = 0x10  # on Linux, macOS and the BSDs; Python has no name for it


def map_file(fd: int, size: int) -> mmap.mmap:
    """A shared and writable mapping of the first `size` bytes of an open file, which may be closed then.

    Raises:
        OSError, ValueError: it can't be mapped.
    """
    if sys.platform == "win32":  # handles are plentiful there
        return mmap.mmap(fd, size, access=mmap.ACCESS_WRITE)
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, access=mmap.ACCESS_WRITE, trackfd=False)
    call = _system_call()
    if call is None:
        return mmap.mmap(fd, size, access=mmap.ACCESS_WRITE)
    made = mmap.mmap(-1, size)
    address = ctypes.addressof(ctypes.c_char.from_buffer(made))
    # In place of the pages that are there, in one step: whoever unmaps `made` unmaps the file.
    if call(address, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED, fd, 0) != address:
        error = ctypes.get_errno()
        made.close()
        raise OSError(error, "the file can't be mapped")
    return made


def unmap(view: mmap.mmap) -> None:
    """Unmap it now, or with the last view of it."""
    try:
        view.close()
    except BufferError:  # somebody still looks at it
        pass


@cache
def _system_call() -> Any:
    try:
        found = ctypes.CDLL(None, use_errno=True).mmap
    except (OSError, AttributeError):  # a Python without a C library to look things up in
        return None
    found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_ssize_t]
    found.restype = ctypes.c_void_p
    return found
