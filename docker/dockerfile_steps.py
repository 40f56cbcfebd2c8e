"""Reads Dockerfiles and .dockerignore files, as far as this folder's files use them; runs nothing.

    text ──parse──▶ instructions ──stages──▶ one list per FROM ──▶ check_steps.py, tests

`parse` knows comments, continuation lines, flags and the exec form; heredocs, ARG and variables in instructions
raise, so that a file that outgrows this reader fails loudly instead of being misread.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

INSTRUCTIONS = frozenset(
    {"CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "STOPSIGNAL", "USER", "WORKDIR"}
)


class DockerfileError(ValueError):
    """The file has something that this reader doesn't know; the message names the line."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: its name in capitals, its flags, and the rest, joined to one line."""

    name: str
    text: str
    line: int
    flags: dict[str, str] = field(default_factory=dict)

    @property
    def exec_form(self) -> list[str] | None:
        """The words of a JSON list; None if the rest is a shell command. HEALTHCHECK: of what follows its CMD."""
        text = self.text.removeprefix("CMD").strip() if self.name == "HEALTHCHECK" else self.text
        if not text.startswith("["):
            return None
        words = json.loads(text)
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DockerfileError(f"line {self.line}: {self.name} is no list of strings")
        return words


@dataclass(frozen=True)
class Stage:
    """One FROM and what belongs to it."""

    base: str
    name: str
    instructions: tuple[Instruction, ...]

    def last(self, name: str) -> Instruction | None:
        """The instruction of that name that counts: the last one."""
        return next((i for i in reversed(self.instructions) if i.name == name), None)


def parse(text: str) -> list[Instruction]:
    """Split a Dockerfile into instructions.

    Raises:
        DockerfileError: an instruction or form that this reader doesn't know.
    """
    instructions: list[Instruction] = []
    pending, first_line = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#"):
            continue  # also between continuation lines, as Docker does
        if not pending and not line.strip():
            continue
        first_line = first_line or number
        if line.rstrip().endswith("\\"):
            pending += line.rstrip()[:-1].strip() + " "
            continue
        instructions.append(_instruction((pending + line.strip()).strip(), first_line))
        pending, first_line = "", 0
    if pending:
        raise DockerfileError(f"line {first_line}: the last line is continued, and nothing follows")
    return instructions


def _instruction(line: str, number: int) -> Instruction:
    word, _, rest = line.partition(" ")
    name, rest = word.upper(), rest.strip()
    if name not in INSTRUCTIONS:
        raise DockerfileError(f"line {number}: this reader doesn't know the instruction {word}")
    flags: dict[str, str] = {}
    while match := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
        flags[match[1]] = match[2]
        rest = rest[match.end() :]
    if "<<" in rest or (name != "RUN" and "$" in rest):
        raise DockerfileError(f"line {number}: this reader knows no heredocs and no variables outside of RUN")
    return Instruction(name, rest, number, flags)


def stages(instructions: list[Instruction]) -> list[Stage]:
    """Group instructions by FROM; an unnamed stage is named by its number."""
    groups: list[tuple[Instruction, list[Instruction]]] = []
    for instruction in instructions:
        if instruction.name == "FROM":
            groups.append((instruction, []))
        elif groups:
            groups[-1][1].append(instruction)
        else:
            raise DockerfileError(f"line {instruction.line}: {instruction.name} before FROM")
    found = []
    for number, (start, rest) in enumerate(groups):
        words = start.text.split()
        name = words[2] if len(words) == 3 and words[1].upper() == "AS" else str(number)
        found.append(Stage(words[0], name, tuple(rest)))
    return found


def environment(stage: Stage) -> dict[str, str]:
    """What the ENV instructions of a stage set; only the form NAME=value without spaces in the value."""
    pairs = [pair for i in stage.instructions if i.name == "ENV" for pair in i.text.split()]
    if not all("=" in pair for pair in pairs):
        raise DockerfileError("ENV: only NAME=value, without spaces in the value")
    return dict(pair.split("=", 1) for pair in pairs)


def shell_commands(run: Instruction) -> list[str]:
    """The commands that a RUN joins with `&&`."""
    return [command.strip() for command in run.text.split("&&")]


def ignored(path: str, patterns: str) -> bool:
    """Whether a .dockerignore file keeps a path out of the build context.

    The last pattern that matches the path or one of its parents decides (Docker's rule).

    Args:
        path: relative to the context, with slashes.
        patterns: the text of the .dockerignore file.
    """
    pure = PurePosixPath(path)
    candidates = [str(pure), *(str(parent) for parent in pure.parents if str(parent) != ".")]
    verdict = False
    for line in patterns.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keeps = pattern.startswith("!")
        expression = re.compile(_expression(pattern.removeprefix("!").strip("/")))
        if any(expression.fullmatch(candidate) for candidate in candidates):
            verdict = not keeps
    return verdict


def _expression(pattern: str) -> str:
    """A .dockerignore pattern as a regular expression; `**` crosses slashes, `*` and `?` don't."""
    translated = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    return "".join(translated.get(p) or (p if p.startswith("[") else re.escape(p)) for p in pieces)
