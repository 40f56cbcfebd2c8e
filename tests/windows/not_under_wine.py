"""Tests that can't work under Wine, each with the reason. On a real Windows they run. Never a whole folder or file."""

from __future__ import annotations

REASONS: dict[str, str] = {
    "tests/system/test_fuzz_node.py::test_the_workers_port": "Wine's list of listening sockets doesn't say whose they are",
    "tests/system/test_fuzz_node.py::test_a_client_of_a_good_node_and_a_fake_one[huge parts]": (
        "Wine keeps 256 MB of page tables for each TiB that it was asked for and refused"
    ),
}
"""Test id as pytest prints it, or its beginning up to a bracket -> why."""
