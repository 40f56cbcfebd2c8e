"""CUDA as torch has it, for pinned.py. Nothing here imports torch: where nobody has, nobody wants this."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from feeder_client.pinned import Mark, Pins

_PORTABLE = 1  # page-locked for all devices of the process, not for the current one alone


class Cuda:
    """CUDA as torch has it. Made in the thread that uses the device."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._device = torch.cuda.current_device()

    def register(self, address: int, size_bytes: int) -> int:
        """See `Runtime`."""
        code = int(self._torch.cuda.cudart().cudaHostRegister(address, size_bytes, _PORTABLE))
        if code:
            self._clear_error()
        return code

    def unregister(self, address: int) -> int:
        """See `Runtime`."""
        with self._torch.cuda.device(self._device):  # in a thread of ours it would be device 0, which this process may not use at all
            code = int(self._torch.cuda.cudart().cudaHostUnregister(address))
            if code:
                self._clear_error()
        return code

    def _clear_error(self) -> None:
        # CUDA remembers it, and torch would find it after its next kernel and blame that. So let a kernel of ours be blamed.
        try:
            self._torch.zeros(1, device=f"cuda:{self._device}")
        except RuntimeError:
            pass

    def mark(self) -> Mark | None:
        """See `Runtime`."""
        cuda = self._torch.cuda
        if cuda.is_current_stream_capturing():
            return None
        in_use = getattr(self._torch._C, "_cuda_hasPrimaryContext", lambda index: index == self._device)
        events = []
        for index in range(cuda.device_count()):
            if in_use(index):
                for stream in {cuda.current_stream(index), cuda.default_stream(index)}:
                    event = cuda.Event(blocking=True)  # who waits for it sleeps
                    event.record(stream)
                    events.append((index, event))
        return _Events(events, cuda.device)


class _Events:
    """A mark of CUDA's."""

    def __init__(self, events: list[tuple[int, Any]], device: Callable[[int], AbstractContextManager[Any]]) -> None:
        self._events, self._device = events, device

    def done(self) -> bool:
        """See `Mark`."""
        return all(event.query() for _, event in self._events)

    def wait(self) -> None:
        """See `Mark`."""
        for index, event in self._events:
            with self._device(index):
                event.synchronize()


def pins_where_cuda_is_used() -> Pins | None:
    """For a client on torch; None: nothing here copies to a CUDA device, as far as is known now."""
    torch = sys.modules.get("torch")
    return Pins(Cuda(torch)) if torch is not None and torch.cuda.is_initialized() else None
