"""A pytest plugin for runs under Wine: skips what `not_under_wine.py` names and nothing else, and lets examples take their time."""

from __future__ import annotations

import os

import hypothesis
import pytest

from tests.windows.not_under_wine import REASONS, TO_SAVE_TIME

ALL = "FEEDER_WINDOWS_ALL"  # variable: also what is left out to save time


def pytest_configure(config: pytest.Config) -> None:
    """Not when this file is imported: the tool's own tests do that, too."""
    # A single example may take long under Wine, on a machine that does other things as well.
    hypothesis.settings.register_profile("wine", deadline=None)
    hypothesis.settings.load_profile("wine")


def reason_for(nodeid: str) -> str | None:
    """Why a test is skipped under Wine, or None."""
    left_out = REASONS if os.environ.get(ALL) else {**TO_SAVE_TIME, **REASONS}
    return left_out.get(nodeid) or left_out.get(nodeid.partition("[")[0])


def unknown(nodeids: set[str]) -> list[str]:
    """What is named, in files of which there are tests among `nodeids`, and isn't one of them."""
    files = {nodeid.partition("::")[0] for nodeid in nodeids}
    known = nodeids | {nodeid.partition("[")[0] for nodeid in nodeids}
    return [name for name in {**TO_SAVE_TIME, **REASONS} if name.partition("::")[0] in files and name not in known]


@pytest.hookimpl(tryfirst=True)  # before `-k` and the like take any away
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks them. A name in the list that no test has is an error, unless single tests were asked for."""
    if not any("::" in argument for argument in config.args) and (gone := unknown({item.nodeid for item in items})):
        raise pytest.UsageError(f"tests/windows/not_under_wine.py names tests that aren't there: {', '.join(gone)}")
    for item in items:
        if reason := reason_for(item.nodeid):
            item.add_marker(pytest.mark.skip(reason=f"Wine: {reason}"))
