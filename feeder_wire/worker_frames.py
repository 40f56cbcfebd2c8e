"""Which messages a node and its workers may send each other. See frames.py."""

from __future__ import annotations

from feeder_wire import worker_messages as w
from feeder_wire.frames import Registry

_TO_WORKER = (w.Task, w.Free, w.Drop, w.Retire, w.Mode, w.Stop)
_FROM_WORKER = (w.Joined, w.Loaded, w.LoadFailed, w.Made, w.MadeBlock, w.TaskFailed, w.TaskEnded, w.Dropped, w.Looked)

TO_WORKER: Registry = {c.CODE: c for c in _TO_WORKER}
FROM_WORKER: Registry = {c.CODE: c for c in _FROM_WORKER}
