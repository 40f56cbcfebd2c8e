"""What a node says of itself and of its sources: to its clients, and to `feeder-server status`. See messages.py for the rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from feeder_wire import fields
from feeder_wire.leaves import Leaf


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


@dataclass(frozen=True, slots=True)
class Workers:
    """So many workers make this session's batches from now on; `Opened` has told how many there were. Never for a stream."""

    CODE: ClassVar[int] = 37
    session: bytes
    count: int

    def __post_init__(self) -> None:
        fields.session(self, self.session)
        fields.whole(self, self.count, 1 << 16)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What comparing the copies of a source has shown; follows `Opened`, and comes again when more is known.

    `outcome` is a word of feeder_server/probe.py, empty until all is compared; `text` says what it means, `costs` whether it is a pity.
    `leaves`: of batch 0 of epoch 0 (see leaves.py); `known`: they are there, or never will be.
    """

    CODE: ClassVar[int] = 34
    session: bytes
    outcome: str
    text: str
    costs: bool
    known: bool
    leaves: tuple[Leaf, ...]

    def __post_init__(self) -> None:
        fields.session(self, self.session)
        fields.text(self, self.outcome, self.text)
        fields.flag(self, self.costs)
        fields.flag(self, self.known)
        object.__setattr__(self, "leaves", fields.leaves(self, self.leaves))
