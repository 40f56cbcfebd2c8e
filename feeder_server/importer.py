"""Import what a target names.

Two failures look alike to Python and mean different things to the user: there is no such file, module or attribute
(`SourceNotFound`: fix the command line), and the module is there but raised (`SourceError`: fix the code). They are told apart
by whether any of the user's code ran on the way.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import pkgutil
import re
import sys
import types

from feeder_server.failure import has_user_frames, user_error
from feeder_server.target import Target, did_you_mean
from feeder_wire.errors import SourceNotFound


def load(target: Target, *, fresh: bool = False) -> object:
    """Import the module or file of a target and walk to its attribute.

    The folder of a file, or the current folder for a module, becomes the first entry of sys.path. A file is imported under a real
    module name, so that pickling, dataclasses and, inside a package, relative imports work in it. Several targets in one file share
    one module.

    Args:
        target: what to load.
        fresh: run the module again, for an object that no other copy can be made of. What it imports is not run again.

    Raises:
        SourceNotFound: the file, module or attribute is missing; the message says which, and what there is.
        SourceError: the user's module raised, or is no valid Python; the message holds their traceback.
    """
    importlib.invalidate_caches()
    if target.is_file:
        path = _find_file(target)
        name, root = module_name(path)
        _put_first(root)
        _put_first(os.path.dirname(path))
        module = _run_file(target, name, path, fresh)
    else:
        _put_first(os.getcwd())
        module = _run_module(target, fresh)
    return _walk(target, module)


def module_name(path: str) -> tuple[str, str]:
    """Choose the name under which a file is imported.

    Args:
        path: absolute path of the file.

    Returns:
        The name, dotted where the file lies in a package, and the folder that the name starts from. A name that is taken, by the
        standard library or by another file, gets an ending: a file ``random.py`` must not become everybody's `random`.
    """
    folder, filename = os.path.split(path)
    stem = os.path.splitext(filename)[0]
    parts = [] if stem == "__init__" else [stem if stem.isidentifier() else "_" + re.sub(r"\W", "_", stem)]
    root = folder
    while os.path.isfile(os.path.join(root, "__init__.py")) and os.path.basename(root).isidentifier():
        root, package = os.path.split(root)
        parts.insert(0, package)
    if not parts:  # an __init__.py in a folder whose name is no module name
        parts = ["_" + re.sub(r"\W", "_", os.path.basename(folder))]
    name = wanted = ".".join(parts)
    count = 1
    while not _is_free(name, path):
        count += 1
        name = f"{wanted}_{count}"
        _wanted[name] = wanted
    return name, root


_wanted: dict[str, str] = {}


def own_name(name: str) -> str:
    """The name that a module would have if no other file had it: seeds go by that, or they would depend on which file came first."""
    return _wanted.get(name, name)


def _is_free(name: str, path: str) -> bool:
    taken = sys.modules.get(name)
    if taken is not None:
        return _same_file(getattr(taken, "__file__", None), path)
    return name.partition(".")[0] not in sys.stdlib_module_names


def _run_file(target: Target, name: str, path: str, fresh: bool) -> types.ModuleType:
    old = sys.modules.get(name)
    if old is not None and not fresh:
        return old
    package = [os.path.dirname(path)] if os.path.basename(path) == "__init__.py" else None
    # The loader is given because the one for an ending is found by case: AUGMENT.PY has none.
    loader = importlib.machinery.SourceFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader, submodule_search_locations=package)
    if spec is None:  # can't happen with a loader given
        raise SourceNotFound(f"{path} can't be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
        # A module may put something else in its own place.
        return sys.modules.get(name, module)
    except BaseException as exc:
        _put_back(name, None)
        if isinstance(exc, KeyboardInterrupt):
            raise
        raise user_error(exc, _while_imported(target, exc)) from exc
    finally:
        if old is not None:
            _put_back(name, old)


def _run_module(target: Target, fresh: bool) -> types.ModuleType:
    name = target.location
    old = sys.modules.pop(name, None) if fresh else None
    try:
        return importlib.import_module(name)
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt):
            raise
        if isinstance(exc, ModuleNotFoundError) and not has_user_frames(exc):
            raise SourceNotFound(_no_module(target, exc)) from None
        raise user_error(exc, _while_imported(target, exc)) from exc
    finally:
        if old is not None:
            _put_back(name, old)


def _put_back(name: str, module: types.ModuleType | None) -> None:
    if module is None:
        sys.modules.pop(name, None)
    else:
        sys.modules[name] = module


def _while_imported(target: Target, exc: BaseException) -> str:
    text = f"while {target.location} was imported"
    if isinstance(exc, SystemExit):
        text += "; put what a script does behind if __name__ == '__main__'"
    return text


def _walk(target: Target, module: types.ModuleType) -> object:
    found: object = module
    done = target.location
    for part in target.attr.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as exc:
            # A module's own __getattr__ that raises AttributeError says "not there"; one that fails otherwise is a fault of its own.
            raise SourceNotFound(_no_attribute(target, found, done, part)) from (exc if has_user_frames(exc) else None)
        except BaseException as exc:
            if isinstance(exc, KeyboardInterrupt):
                raise
            raise user_error(exc, f"while {part!r} was read from {done}") from exc
        done = f"{done}.{part}" if ":" in done else f"{done}:{part}"
    return found


def _find_file(target: Target) -> str:
    path = os.path.abspath(os.path.expanduser(target.location))
    if os.path.isfile(path):
        return path
    folder, filename = os.path.split(path)
    if os.path.isdir(path):
        raise SourceNotFound(f"{target.location} is a folder, not a file")
    if not os.path.isdir(folder):
        raise SourceNotFound(f"there is no file {target.location}: the folder {folder} doesn't exist (this is {os.getcwd()})")
    try:
        names = sorted(name for name in os.listdir(folder) if name.lower().endswith(".py"))
    except OSError as exc:
        raise SourceNotFound(f"there is no file {target.location} that can be read: {exc}") from None
    raise SourceNotFound(f"there is no file {filename} in {folder}{did_you_mean(filename, names)}{_have('; Python files there: ', names)}")


def _no_module(target: Target, exc: ModuleNotFoundError) -> str:
    missing = exc.name or target.location
    parent, _, last = missing.rpartition(".")
    if parent:
        paths = getattr(sys.modules.get(parent), "__path__", None)
        if paths is None:
            return f"{parent} is a module, not a package: there is no {missing} in it; an attribute is written {parent}:{last}"
        names = _importable(list(paths))
        return f"there is no module {last!r} in the package {parent}{did_you_mean(last, names)}{_have('; it has: ', names)}"
    names = _importable(None)
    hint = did_you_mean(last, names)
    if os.path.isfile(f"{missing}.py"):  # there, and still not found: the name is shadowed by nothing, so it is unreadable
        hint = f"; did you mean the file {missing}.py:{target.attr}?"
    return f"there is no module {missing!r} (looked in {os.getcwd()} and in what is installed for {sys.executable}){hint}"


def _no_attribute(target: Target, holder: object, done: str, part: str) -> str:
    if isinstance(holder, types.ModuleType):
        inside = f"{holder.__name__}.{part}"
        if hasattr(holder, "__path__") and part in _importable(list(holder.__path__)):
            return f"{inside} is a module: write {inside}:NAME"
        names, all_names = _public(holder), [name for name in vars(holder) if not name.startswith("__")]
    else:
        names = all_names = sorted(name for name in dir(holder) if not name.startswith("_"))
    return f"{done} has no {part!r}{did_you_mean(part, all_names)}{_have('; it has: ', names)}"


def _public(module: types.ModuleType) -> list[str]:
    """Names that a module offers of its own: not what it imported from elsewhere."""
    declared = getattr(module, "__all__", None)
    if isinstance(declared, (list, tuple)):
        return [name for name in declared if isinstance(name, str)]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and (not isinstance(value, (type, types.FunctionType)) or value.__module__ == module.__name__)
        and type(value).__module__ != "__future__"
    ]


def _importable(paths: list[str] | None) -> list[str]:
    return sorted({module.name for module in pkgutil.iter_modules(paths) if not module.name.startswith("_")})


def _have(intro: str, names: list[str], most: int = 20) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return intro + ", ".join(names[:most]) + more


def _put_first(folder: str) -> None:
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)


def _same_file(one: object, other: str) -> bool:
    try:
        return isinstance(one, str) and os.path.samefile(one, other)
    except OSError:
        return False
