"""What a node tells its clients when it is being stopped. See messages.py for the rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from feeder_wire import fields


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The node is being stopped and won't make these batches of one epoch: ask others, and nothing more of it. There may be none."""

    CODE: ClassVar[int] = 35
    session: bytes
    epoch: int
    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        fields.session(self, self.session)
        fields.whole(self, self.epoch)
        object.__setattr__(self, "indices", fields.numbers(self, self.indices))


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The node is shutting down; `kind` and `text` as in `Refuse`, `kind` empty where nothing failed.

    `builtins`: as in `RemoteError`, where user code has failed.
    """

    CODE: ClassVar[int] = 32
    kind: str
    text: str
    builtins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        fields.text(self, self.kind, self.text)
        object.__setattr__(self, "builtins", fields.texts(self, self.builtins, 64))
