"""What `feeder-server status` asks, and what a node answers. See messages.py for the rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from feeder_wire import fields


@dataclass(frozen=True, slots=True)
class Look:
    """How are you? Answered at once by a `Status`, also while the workers load or are busy. Needs no session and opens none."""

    CODE: ClassVar[int] = 10


@dataclass(frozen=True, slots=True)
class Status:
    """One look at the node: a JSON object, see feeder_server/report.py."""

    CODE: ClassVar[int] = 36
    text: str

    def __post_init__(self) -> None:
        fields.text(self, self.text)
