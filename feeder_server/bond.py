"""No worker outlives its node, whatever its code is at.

A worker watches the pipe from its node and exits when that ends, on every system. But the thread that watches can't run while the user's
code sits in C and holds the GIL, or while the worker is stopped. So the system is asked to end it:

    Linux      the worker asks for a SIGKILL at the death of its parent (the thread in the node that started it, and waits for its end)
    Windows    the node puts its workers into a job, which the system ends with the node's last handle to it
    others     have no such thing; there such a worker ends as soon as its code lets go

All of it is best effort: where it is refused, the pipe is what remains. So user code must not get at it (`take_over_stdin`; a private
server does the same with that of the training process).
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
from typing import Any, BinaryIO

log = logging.getLogger("feeder.worker")

_PR_SET_PDEATHSIG = 1
_EXTENDED_LIMITS = 9
_KILL_ON_CLOSE = 0x2000
_CHILDREN_STAY_OUT = 0x1000  # processes that user code starts are its own affair
_LIMITS_BYTES = 144 if sys.maxsize > 2**32 else 112  # JOBOBJECT_EXTENDED_LIMIT_INFORMATION
_FLAGS_OFFSET = 16


def die_with_parent() -> None:
    """Called by a worker, before it runs any code of the user's."""
    if sys.platform == "linux":
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        except (OSError, AttributeError) as e:
            log.debug("no signal at the death of the node: %s", e)


class Job:
    """Where a node puts its workers; ends them when this process ends, on Windows. Any thread."""

    def __init__(self) -> None:
        self._handle: Any = None
        if sys.platform == "win32":
            self._kernel = ctypes.WinDLL("kernel32", use_last_error=True)
            self._kernel.CreateJobObjectW.restype = ctypes.c_void_p
            handle = ctypes.c_void_p(self._kernel.CreateJobObjectW(None, None))
            flags = (_KILL_ON_CLOSE | _CHILDREN_STAY_OUT).to_bytes(4, "little")
            limits = ctypes.create_string_buffer(bytes(_FLAGS_OFFSET) + flags, _LIMITS_BYTES)
            if handle and self._kernel.SetInformationJobObject(handle, _EXTENDED_LIMITS, limits, _LIMITS_BYTES):
                self._handle = handle
            else:
                log.debug("no job for the workers: error %d", ctypes.get_last_error())

    def add(self, process: subprocess.Popen[bytes]) -> None:
        """Bind a process to this one."""
        if sys.platform == "win32" and self._handle is not None:
            if not self._kernel.AssignProcessToJobObject(self._handle, ctypes.c_void_p(int(process._handle))):  # type: ignore[attr-defined]
                log.debug("worker %d could not be put into the job: error %d", process.pid, ctypes.get_last_error())


def take_over_stdin() -> BinaryIO:
    """Keep the parent's pipe for ourselves: user code that reads stdin gets an end of file instead of our set-up."""
    private = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return os.fdopen(private, "rb")
