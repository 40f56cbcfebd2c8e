"""What a command line names: ``[NAME=]MODULE_OR_FILE:ATTR`` and the arguments that go with it.

Parsing only. Nothing is imported here and nothing of the user's runs, so that a typo costs milliseconds and is reported
before any process has been started.
"""

from __future__ import annotations

import datetime
import difflib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from feeder_wire.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_NAME = "default"

_SHAPE = "[NAME=]MODULE_OR_FILE:ATTR, for example augment.py:train"
_NAME = re.compile(r"[^\W\d][\w-]*")
# TOML has no null and writes its truth values in lower case; who types Python's words means Python's values, and the *string*
# "False" would be true in the user's code.
_PYTHON_WORDS = {"True": True, "False": False, "None": None}


@dataclass(frozen=True, slots=True)
class Target:
    """One source that a server is to serve.

    Attributes:
        name: what clients call it.
        location: dotted module name, or path of a Python file exactly as the user wrote it.
        attr: name inside the module, dotted where it is an attribute of an attribute.
        args: keyword arguments for the class or function that `attr` names; plain JSON values.
    """

    name: str
    location: str
    attr: str
    args: dict[str, object] = field(default_factory=dict, hash=False)

    @property
    def is_file(self) -> bool:
        """Whether `location` is a path, not a module name."""
        return self.location.lower().endswith(".py")

    @property
    def reference(self) -> str:
        """The target without its name, for messages: ``augment.py:train``."""
        return f"{self.location}:{self.attr}"

    def __str__(self) -> str:
        return self.reference if self.name == DEFAULT_NAME else f"{self.name}={self.reference}"

    def to_json(self) -> str:
        """Write the target as one line of ASCII, whatever its path holds.

        Raises:
            ConfigError: an argument is no plain value, so that it can't travel to a worker.
        """
        args = {key: plain(value, f"argument {key!r} of {self}") for key, value in self.args.items()}
        return json.dumps({"name": self.name, "location": self.location, "attr": self.attr, "args": args})

    @classmethod
    def from_json(cls, text: str) -> Target:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: the text is something else.
        """
        try:
            found = json.loads(text)
            name, location, attr, args = (found[key] for key in ("name", "location", "attr", "args"))
        except (ValueError, KeyError, TypeError) as exc:
            raise ConfigError(f"not a target written by feeder: {exc}") from exc
        if not (all(isinstance(part, str) for part in (name, location, attr)) and isinstance(args, dict)):
            raise ConfigError("not a target written by feeder: a field has the wrong type")
        return cls(name, location, attr, args)


def parse_target(text: str) -> Target:
    r"""Read one target.

    The last colon ends the location, so that ``C:\data\augment.py:train`` is what it looks like. An equals sign ends the name
    where what stands before it can't be part of a path.

    Args:
        text: ``[NAME=]MODULE_OR_FILE:ATTR``.

    Raises:
        ConfigError: the text is no target; the message says what to write.
    """
    name, rest = _split_name(text.strip())
    location, colon, attr = rest.rpartition(":")
    # In C:\x\augment.py the only colon belongs to the drive.
    if not colon or "/" in attr or "\\" in attr:
        raise ConfigError(f"{text!r} names no object in {rest}: write {rest or 'augment.py'}:NAME")
    if not location:
        raise ConfigError(f"{text!r} names no module or file: write {_SHAPE}")
    _check_attr(text, location, attr)
    _check_location(text, location, attr)
    return Target(name, location, attr)


def parse_targets(texts: Sequence[str]) -> tuple[Target, ...]:
    """Read all targets of a command line.

    Raises:
        ConfigError: one of them is wrong, or two have the same name.
    """
    targets = tuple(parse_target(text) for text in texts)
    if not targets:
        raise ConfigError(f"nothing to serve: give {_SHAPE}")
    seen: dict[str, Target] = {}
    for target in targets:
        other = seen.setdefault(target.name, target)
        if other is target:
            continue
        if target.name == DEFAULT_NAME:
            raise ConfigError(
                f"{other.reference} and {target.reference} have no names: write train={other.reference} val={target.reference}"
            )
        raise ConfigError(f"two targets are called {target.name!r}: {other.reference} and {target.reference}")
    return targets


def apply_args(targets: Sequence[Target], texts: Sequence[str]) -> tuple[Target, ...]:
    """Give the targets the arguments of the command line.

    ``KEY=VALUE`` goes to all of them, ``NAME.KEY=VALUE`` to one, whatever the order; of two for the same key the later wins.
    VALUE is a TOML value (``32``, ``0.5``, ``true``, ``[64, 64]``, ``"a string"``), one of Python's ``True``, ``False`` and
    ``None``, or else the text as it stands.

    Args:
        targets: as `parse_targets` gave them.
        texts: the values of ``-a``.

    Returns:
        New targets; arguments that they had before stay unless they are given again.

    Raises:
        ConfigError: no equals sign, no such target, or a key that is no name of an argument.
    """
    names = [target.name for target in targets]
    common: dict[str, object] = {}
    own: dict[str, dict[str, object]] = {name: {} for name in names}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"argument {text!r} has no value: write {text}=VALUE")
        scope, dot, key = key.strip().rpartition(".")
        if dot and scope not in own:
            raise ConfigError(f"argument {text!r} is for a target {scope!r}; there is {_listed(names)}{did_you_mean(scope, names)}")
        if not key.isidentifier():
            raise ConfigError(f"argument {text!r}: {key!r} can't be the name of an argument; write KEY=VALUE")
        (own[scope] if dot else common)[key] = parse_value(value)
    return tuple(replace(target, args={**target.args, **common, **own[target.name]}) for target in targets)


def parse_value(text: str) -> object:
    """Read the VALUE of an argument: a TOML value, Python's True, False or None, else the text itself."""
    stripped = text.strip()
    if stripped in _PYTHON_WORDS:
        return _PYTHON_WORDS[stripped]
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # A line break in the text could otherwise smuggle further keys in.
    return plain(found["value"], f"the value {text!r}") if found.keys() == {"value"} else text


def plain(value: object, what: str) -> object:
    """Copy a value as JSON would bring it back: tuples become lists, dates and times ISO text, paths text.

    Raises:
        ConfigError: there is something in it that is no plain value.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item, what) for item in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ConfigError(f"{what}: the keys of a table have to be strings")
        return {key: plain(item, what) for key, item in value.items()}
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    raise ConfigError(f"{what}: a {type(value).__name__} can't be sent to a worker; use numbers, strings, lists and tables")


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Name the nearest of `names`, as the end of a message; empty where none is near."""
    lower = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    return f"; did you mean {lower[close[0]]!r}?" if close else ""


def _split_name(text: str) -> tuple[str, str]:
    head, equals, rest = text.partition("=")
    # ./a=1/augment.py:train and C:\a=1\augment.py:train hold an equals sign of their own.
    if not equals or any(sign in head for sign in ":/\\"):
        return DEFAULT_NAME, text
    name = head.strip()
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} in {text!r} can't be a name: letters, digits, - and _, a letter first (or ./{text} for a path)")
    return name, rest.strip()


def _check_attr(text: str, location: str, attr: str) -> None:
    if not attr:
        raise ConfigError(f"{text!r} ends in a colon: write {location}:NAME")
    if attr.endswith(")"):
        raise ConfigError(f"{text!r}: write {location}:{attr.partition('(')[0]} and give arguments with -a KEY=VALUE")
    if not all(part.isidentifier() for part in attr.split(".")):
        raise ConfigError(f"{attr!r} in {text!r} can't be the name of a class, function or object")


def _check_location(text: str, location: str, attr: str) -> None:
    if location.lower().endswith(".py"):
        return
    if any(sign in location for sign in "/\\~") or os.path.isfile(location):
        raise ConfigError(f"{location} has no .py ending: a target is a Python file, or a module name with dots, as in mypkg.data:{attr}")
    if not all(part.isidentifier() for part in location.split(".")):
        hint = f"write {location}.py:{attr}" if os.path.isfile(f"{location}.py") else f"write {_SHAPE}"
        raise ConfigError(f"{location!r} in {text!r} is neither a .py file nor a module name: {hint}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names) or "none"
