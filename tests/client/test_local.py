"""How a private server is set apart from the process that it belongs to. What it does is in tests/system/test_local.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

from feeder_client import local


def test_out_of_reach_of_ctrl_c_and_without_a_window_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started from pythonw, Windows would open a console window for it."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200, raising=False)
    monkeypatch.setattr(subprocess, "CREATE_NO_WINDOW", 0x8000000, raising=False)
    assert local._apart() == {"creationflags": 0x8000200}


def test_elsewhere_a_session_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert local._apart() == {"start_new_session": True}
