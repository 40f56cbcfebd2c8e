"""What the log says of a node's sources as it is found out: what a batch is made of, and whether their copies agree."""

from __future__ import annotations

import logging

from feeder_server.dispatch import Dispatch
from feeder_server.sample import Sample, listed

log = logging.getLogger("feeder.node")


class Outcomes:
    """See the module.

    Args:
        dispatch: knows it.
    """

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._said: list[tuple[str, Sample | None]] = [("", None) for _ in dispatch.sources]

    def say(self) -> str | None:
        """Log what is new. Returns a text when copies were found to disagree, which says in what."""
        diverged = None
        sources = self._dispatch.sources
        # After all that has come in: an item that was looked at may change them, and so may a worker that died over one.
        before, self._said = self._said, [(s.outcome, s.sample) for s in sources]
        for (outcome, shown), source, probe in zip(before, sources, self._dispatch.trials.probes, strict=True):
            if source.sample is not None and shown is None:
                for line in listed(source.name, source.sample):
                    log.info("%s", line)
                for warning in source.sample.warnings:
                    log.warning("source %r: %s", source.name, warning)
            if source.outcome != outcome:
                log.log(logging.WARNING if probe.costs else logging.INFO, "%s", source.outcome_text)
                if probe.diverged:
                    diverged = diverged or source.outcome_text
        return diverged
