"""A class or function of a library, taken from the library's own file without importing the library.

For the stand-ins of light_imports.py: what a source derives from has to be what the installed version of Keras has, line for line. So
its text is cut out of the file and run by itself, with the few names that it needs. What needs anything else isn't taken.
"""

from __future__ import annotations

import ast
import builtins
import types
from collections.abc import Iterator
from typing import Any

_EXPORT = "keras_export"  # the only decorator that may stand there: it enters the name in a list, which the real one will do


def borrow(file: str, name: str, module: str, names: dict[str, Any]) -> Any:
    """Take a class or function from a file.

    A class gets a base of its own, so that its bases can be changed later (CPython refuses that to a class right below `object`).

    Args:
        file: path of the file.
        name: of a class without bases, or a function, at the top level.
        module: the name of the module that the file is.
        names: what its code may use besides the built-in names.

    Returns:
        It, or None where it isn't there, or needs more than these names.
    """
    try:
        with open(file, encoding="utf-8") as opened:
            tree = ast.parse(opened.read(), file)
    except (OSError, ValueError, SyntaxError):
        return None
    found = next((n for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name == name), None)
    if found is None or not all(_is_export(decorator) for decorator in found.decorator_list):
        return None
    found.decorator_list = []
    space: dict[str, Any] = {"__name__": module, **names}
    if isinstance(found, ast.ClassDef):
        if found.bases or found.keywords:
            return None
        found.bases = [ast.copy_location(ast.Name("__base__", ast.Load()), found)]
        space["__base__"] = type("Base", (), {"__module__": module})
    code = compile(ast.Module([found], []), file, "exec", dont_inherit=True)
    if not set(_names_used(code)) <= {*space, *vars(builtins), "__qualname__", "__module__", name}:
        return None
    try:
        exec(code, space)
    except Exception:  # it is made of something that isn't there; then the library is the one to say so
        return None
    return space[name]


def _is_export(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == _EXPORT


def _names_used(code: types.CodeType) -> Iterator[str]:
    """The names that are looked up in the module; of a class's body also its own."""
    own = {step.argval for step in _steps(code) if step.opname == "STORE_NAME"}
    for step in _steps(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_CLASSDEREF") and step.argval not in own:
            yield str(step.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_used(constant)


def _steps(code: types.CodeType) -> Iterator[Any]:
    import dis

    return dis.get_instructions(code)
