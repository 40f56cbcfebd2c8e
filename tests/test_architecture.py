"""The import rules and the sizes that docs/architecture.md sets, kept by reading the code and by starting it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("feeder_wire", "feeder_server", "feeder_client")
MOST_LINES = 400  # 300 is the aim

# Which files may import or use what.
ALLOWED = {
    "zmq": {
        "feeder_server/node.py",
        "feeder_server/gate.py",
        "feeder_server/crew.py",
        "feeder_server/link.py",
        "feeder_server/drawing.py",  # the only client of a node that is checked
        "feeder_server/status.py",  # looks at a running node, which no client of this package may do
        "feeder_client/receiver.py",
        "feeder_client/connection.py",
        "feeder_wire/security.py",
    },
    "msgpack": {"feeder_wire/codec.py", "feeder_wire/frames.py"},
    "pickle": {"feeder_wire/parcel.py"},
    "wall clock": {"feeder_wire/directories.py"},  # the age of a file that another process has made
    "print": {"feeder_server/cli.py", "feeder_server/demo.py"},
    "ml": {
        "feeder_client/sequence.py",
        "feeder_client/forms.py",
        "feeder_client/keras_base.py",
        "feeder_client/tf_dataset.py",
        "feeder_client/torch_dataset.py",
        "feeder_client/callbacks.py",
        "feeder_client/demo_trainer.py",
        "feeder_server/demo.py",
        "feeder_server/demo_source.py",
        "feeder_server/seeding.py",
    },
}
ML = {"keras", "tf_keras", "tensorflow", "torch", "jax"}  # seconds to import, hundreds of MB: never at import time
PICKLES = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}
PURE_FILES = {
    "dispatch.py",
    "window.py",
    "stream_window.py",
    "overdue.py",
    "order.py",
    "place.py",
    "position.py",
    "permutation.py",
    "seen.py",
}  # decide; a shell around them acts
IMPURE = {"time", "datetime", "random", "secrets", "threading", "socket", "os", "subprocess", "asyncio", "selectors", "zmq", "numpy"}
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}


@dataclass(frozen=True)
class Import:
    """One import of an absolute module name, anywhere in a file."""

    module: str
    line: int
    at_import_time: bool  # runs when the file is imported: outside of functions and of `if TYPE_CHECKING:`

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


@dataclass(frozen=True)
class Module:
    """One parsed file of the packages; `name` is its path from the root, with "/"."""

    name: str
    tree: ast.Module
    lines: int

    @property
    def package(self) -> str:
        return self.name.partition("/")[0]

    @property
    def file(self) -> str:
        return self.name.rpartition("/")[2]

    def imports(self) -> list[Import]:
        return list(imports_in(self.tree, self.name.split("/")[:-1], at_import_time=True))


@cache
def modules() -> tuple[Module, ...]:
    """Returns every file of the three packages."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            found.append(Module(path.relative_to(ROOT).as_posix(), ast.parse(text, str(path)), len(text.splitlines())))
    return tuple(found)


def imports_in(node: ast.AST, package: list[str], at_import_time: bool) -> Iterator[Import]:
    """Yields the imports under `node`: statements, and import_module() or __import__() of a name written out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, at_import_time)
        elif isinstance(child, ast.ImportFrom):
            base = package[: len(package) - child.level + 1] if child.level else []
            module = ".".join([*base, *([child.module] if child.module else [])])
            for alias in child.names:  # `from feeder_wire import x`: x may be a module
                yield Import(f"{module}.{alias.name}", child.lineno, at_import_time)
        elif isinstance(child, ast.Call) and called(child) in ("import_module", "__import__"):
            names = [a.value for a in child.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            yield from (Import(name, child.lineno, at_import_time) for name in names)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for part in child.body:
                yield from imports_in(ast.Module([part], []), package, at_import_time=False)
            for part in child.orelse:
                yield from imports_in(ast.Module([part], []), package, at_import_time)
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports_in(child, package, at_import_time and not is_function)


def called(call: ast.Call) -> str:
    """Returns the last part of the name that is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def docstrings(tree: ast.Module) -> set[int]:
    """Returns the ids of the string nodes that only explain."""
    owners = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
    return {id(n.body[0].value) for n in owners if n.body and isinstance(n.body[0], ast.Expr)}


def offenders(wanted: set[str], allowed: set[str]) -> list[str]:
    """Returns "file:line imports module" for each import of a top-level module in `wanted` outside the `allowed` files."""
    return [f"{m.name}:{i.line} imports {i.module}" for m in modules() if m.name not in allowed for i in m.imports() if i.top in wanted]


def test_there_is_something_to_check() -> None:
    assert {m.package for m in modules()} == set(PACKAGES)


@pytest.mark.parametrize(
    ("package", "others"),
    [("feeder_wire", {"feeder_server", "feeder_client"}), ("feeder_server", {"feeder_client"}), ("feeder_client", {"feeder_server"})],
)
def test_packages_import_in_one_direction(package: str, others: set[str]) -> None:
    assert not [f"{m.name}:{i.line} imports {i.module}" for m in modules() if m.package == package for i in m.imports() if i.top in others]


def test_sockets_belong_to_the_shells() -> None:
    assert not offenders({"zmq"}, ALLOWED["zmq"])


def test_msgpack_belongs_to_the_codec() -> None:
    assert not offenders({"msgpack", "msgpack_numpy"}, ALLOWED["msgpack"])


def test_only_a_parcel_is_pickled() -> None:
    """Nothing that came from a socket is ever unpickled, so no file near a socket can."""
    assert not offenders(PICKLES, ALLOWED["pickle"])


def test_frameworks_are_imported_by_adapters_only() -> None:
    assert not offenders(ML, ALLOWED["ml"])


def test_frameworks_are_imported_at_run_time_only() -> None:
    assert not [f"{m.name}:{i.line} imports {i.module}" for m in modules() for i in m.imports() if i.top in ML and i.at_import_time]


def test_decisions_are_pure() -> None:
    """No clock, no randomness, no thread, no socket: the time and the seed are arguments."""
    pure = [m for m in modules() if m.file in PURE_FILES]
    assert {"dispatch.py", "window.py"} <= {m.file for m in pure}
    assert not [f"{m.name}:{i.line} imports {i.module}" for m in pure for i in m.imports() if i.top in IMPURE]


def test_no_multiprocessing_and_no_fork() -> None:
    assert not offenders({"multiprocessing"}, set())
    forks = [
        f"{m.name}:{n.lineno}"
        for m in modules()
        for n in ast.walk(m.tree)
        if (isinstance(n, ast.Attribute) and n.attr in ("fork", "forkpty"))
        or (isinstance(n, ast.ImportFrom) and n.module == "os" and {a.name for a in n.names} & {"fork", "forkpty"})
    ]
    assert not forks


WALL_CLOCK = {"time": {"time", "time_ns", "localtime", "gmtime"}, "datetime": {"now", "utcnow", "today"}, "date": {"today"}}


def wall_clock_in(tree: ast.AST) -> list[int]:
    """Returns the lines on which the time of day is asked for, under whatever name it was imported."""
    names = {a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "time" for a in n.names}
    found = []
    for n in ast.walk(tree):
        if isinstance(n, ast.Attribute):
            owner = n.value.attr if isinstance(n.value, ast.Attribute) else getattr(n.value, "id", "")
            if n.attr in WALL_CLOCK.get(owner, ()):
                found.append(n.lineno)
        elif isinstance(n, ast.Name) and n.id in names & WALL_CLOCK["time"]:
            found.append(n.lineno)
    return found


def test_deadlines_are_monotonic() -> None:
    """Somebody sets the clock, or a daemon does, and nothing times out or waits for an hour. The stamps in the log are logging's."""
    assert not [f"{m.name}:{line}" for m in modules() if m.name not in ALLOWED["wall clock"] for line in wall_clock_in(m.tree)]


def test_no_ipc_endpoints() -> None:
    """Windows has none; a file named in an endpoint would be one more thing to leave behind."""
    found = []
    for m in modules():
        explains = docstrings(m.tree)
        strings = (n for n in ast.walk(m.tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in explains)
        found += [f"{m.name}:{n.lineno}" for n in strings if "ipc://" in n.value]
    assert not found


def test_only_the_command_line_prints() -> None:
    calls = [(m, n) for m in modules() if m.name not in ALLOWED["print"] for n in ast.walk(m.tree) if isinstance(n, ast.Call)]
    assert not [f"{m.name}:{n.lineno}" for m, n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]


def test_files_are_short_enough_to_read() -> None:
    assert not [f"{m.name}: {m.lines} lines" for m in modules() if m.lines > MOST_LINES]


def test_names_say_what_is_inside() -> None:
    assert not [m.name for m in modules() if VAGUE_NAMES & {part.lower() for part in m.name.removesuffix(".py").split("/")}]


def loaded_by(module: str) -> set[str]:
    """Returns the modules, and packages of modules, that a fresh interpreter has loaded once it has imported `module`."""
    code = f"import json, sys, {module}; json.dump(sorted(sys.modules), sys.stdout)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", ["feeder_server.worker", "feeder_server.node", "feeder_server.cli", "feeder_client"])
def test_starts_without_frameworks(module: str) -> None:
    assert not loaded_by(module) & ML


@pytest.mark.parametrize("module", ["feeder_server.worker", "feeder_server.node", "feeder_server.status", "feeder_client"])
def test_starts_without_asyncio(module: str) -> None:
    """Some parts of pyzmq load it, with ssl; that is a fifth of what starting a client takes, and nothing here needs it."""
    assert "asyncio" not in loaded_by(module)


@pytest.mark.parametrize("module", ["feeder_server.node", "feeder_server.serve", "feeder_server.private", "feeder_server.private_config"])
def test_a_node_starts_without_numpy(module: str) -> None:
    """It moves descriptors and never decodes a batch."""
    assert "numpy" not in loaded_by(module)


@pytest.mark.parametrize(
    ("module", "other"),
    [("feeder_server.worker", "feeder_wire.messages"), ("feeder_client", "feeder_wire.worker_messages")],
)
def test_each_end_loads_its_own_messages_only(module: str, other: str) -> None:
    """Making a dataclass takes Python half a millisecond."""
    assert other not in loaded_by(module)


def test_a_private_server_starts_its_workers_before_it_has_loaded_much() -> None:
    assert not loaded_by("feeder_server.private") & {"zmq", "msgpack", "feeder_server.node", "feeder_wire.messages", "dataclasses"}


class TestTheRulesThemselves:
    """Each kind of import is seen, so that a rule that finds nothing means something."""

    def found(self, code: str) -> list[tuple[str, bool]]:
        return [(i.module, i.at_import_time) for i in imports_in(ast.parse(code), ["feeder_server"], at_import_time=True)]

    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            ("import zmq.auth", [("zmq.auth", True)]),
            ("from . import node", [("feeder_server.node", True)]),
            ("from .node import Node", [("feeder_server.node.Node", True)]),
            ("from feeder_client import window", [("feeder_client.window", True)]),
            ("def f():\n  import keras", [("keras", False)]),
            ("class C:\n  import keras", [("keras", True)]),
            ("try:\n  import keras\nexcept ImportError:\n  pass", [("keras", True)]),
            ("if TYPE_CHECKING:\n  import keras\nelse:\n  import torch", [("keras", False), ("torch", True)]),
            ("k = importlib.import_module('keras.utils')", [("keras.utils", True)]),
            ("f = lambda: __import__('jax')", [("jax", False)]),
        ],
    )
    def test_imports_are_seen(self, code: str, expected: list[tuple[str, bool]]) -> None:
        assert self.found(code) == expected

    @pytest.mark.parametrize(
        "code",
        [
            "x = time.time() + 5",
            "f(clock=time.time)",
            "from time import time\ntime()",
            "datetime.datetime.now()",
            "datetime.now()",
            "date.today()",
        ],
    )
    def test_the_time_of_day_is_seen(self, code: str) -> None:
        assert wall_clock_in(ast.parse(code))

    def test_other_clocks_are_not(self) -> None:
        assert not wall_clock_in(
            ast.parse("time.monotonic(); time.perf_counter(); isinstance(v, datetime.time); from time import monotonic")
        )
