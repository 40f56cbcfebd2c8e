"""Fixtures of every test: private folders, and a test that leaves something behind fails."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from tests import leaks, serving
from tests.backends import may_be_missing

GRACE_SECONDS = 5.0  # for what is just ending; paid only by a test that leaves something behind
SHOWN = 4000  # characters of what a process has said

passed = pytest.StashKey[bool]()

# How long an example takes is the machine's affair: each test has a time limit of its own.
settings.register_profile("feeder", deadline=None)
settings.load_profile("feeder")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests marked `keras` where there is no TensorFlow, but not in CI: there they fail."""
    if importlib.util.find_spec("tensorflow") is None and may_be_missing("tensorflow"):
        for item in items:
            if item.get_closest_marker("keras"):
                item.add_marker(pytest.mark.skip(reason="TensorFlow is not installed"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Notes for `nothing_left_behind` whether the test itself passed; of one that did not, shows what the processes said."""
    report = yield
    if report.failed:
        report.sections += [(f"process {process.pid}", process.output[-SHOWN:]) for process in list(serving.started)]
    if report.when == "call":
        item.stash[passed] = report.passed
    return report


@pytest.fixture(scope="session")
def private_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[leaks.PrivateFolders]:
    """Folders of this test process for temporary files (kept by pytest as its others are) and shared memory (removed)."""
    folders = leaks.PrivateFolders.make(tmp_path_factory.mktemp("tmp"))
    yield folders
    if folders.shared is not None:
        shutil.rmtree(folders.shared, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest, private_folders: leaks.PrivateFolders) -> Iterator[None]:
    """Fails a test that leaves threads, processes, files or folders of feeder's behind.

    What a fixture of a wider scope (a server for a whole module, say) has made before the test is not counted.
    A test that failed already gets its processes killed and no second error: its traceback keeps its objects alive.
    """
    before = leaks.snapshot(private_folders)
    yield
    ok = request.node.stash.get(passed, False)
    left = leaks.wait_for_clean(before, private_folders, GRACE_SECONDS if ok else 0.0)
    message = str(left)
    leaks.kill(left.processes)
    if left and ok:
        pytest.fail(message, pytrace=False)
