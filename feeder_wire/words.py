"""Words that clients and servers both use, in what users write and in what nodes say."""

from __future__ import annotations

AUTO = "auto"
"""In place of a number of workers: as many as are of use."""
SINGLE = "single"
"""What a node says of a source that only one of its workers may serve, and the policy by which that is so; see feeder_server/probe.py."""
