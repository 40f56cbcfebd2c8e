"""Tests that can't work under Wine, each with the reason. On a real Windows they run. Never a whole folder or file."""

from __future__ import annotations

REASONS: dict[str, str] = {}
"""Test id as pytest prints it, or its beginning up to a bracket -> why."""
