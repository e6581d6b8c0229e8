"""`python WORDS` as a program that a fork can become: what runs, and under which path."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CONFINE = ("-m", "harness.cluster.slots")
"""Runs the words after it confined to its rank's slot; a fork confines itself and goes on."""
OWN = "harness"
"""Sets the threads of its arithmetic itself, before it computes anything."""
HOROVODRUN = "horovodrun"
"""In the name of the launcher, however it is started."""


@dataclass(frozen=True)
class Program:
    """A module (`-m name`) or a script by its path, with its arguments."""

    name: str
    arguments: tuple[str, ...]
    is_module: bool
    present_folder: bool = True
    """Whether the present folder comes first on its path (`python -m` without -P)."""
    confined: bool = False

    @property
    def sets_threads(self) -> bool:
        """Whether the threads of its arithmetic are its own affair: horovodrun has no arithmetic."""
        return self.is_module and self.name == OWN or HOROVODRUN in self.name

    def folder(self, cwd: str) -> str | None:
        """The first of its path; None where it has the path of the environment alone."""
        if not self.is_module:
            return str(Path(cwd, self.name).resolve().parent)
        return cwd if self.present_folder else None


def read_program(words: Sequence[str]) -> Program | None:
    """None for what a fork cannot become: options of the interpreter, another interpreter, code of `-c`."""
    words = list(words)
    safe = words[:1] == ["-P"]
    rest = words[1:] if safe else words
    if tuple(rest[:2]) == CONFINE:
        inner = read_program(rest[3:]) if rest[2:3] == [sys.executable] else None
        return inner and Program(inner.name, inner.arguments, inner.is_module, inner.present_folder, True)
    if rest[:1] == ["-m"] and len(rest) > 1:
        return Program(rest[1], tuple(rest[2:]), True, not safe)
    if rest and not safe and rest[0].endswith((".py", "/horovodrun")):
        return Program(rest[0], tuple(rest[1:]), False)
    return None


def shadowed(folder: str) -> str | None:
    """A module in `folder` that a fresh process would import where the server has imported another, if any."""
    loaded = {name for name in sys.modules if "." not in name}
    try:
        entries = os.listdir(folder)
    except OSError:
        return None
    for entry in entries:
        name, _, suffix = entry.partition(".")
        if name not in loaded or suffix not in ("", "py", "pyc") and not suffix.endswith("so"):
            continue
        path = Path(folder, entry)
        if not suffix:
            path = path / "__init__.py"
        origin = getattr(sys.modules[name], "__file__", None)
        if path.is_file() and not (origin is not None and os.path.exists(origin) and os.path.samefile(path, origin)):
            return name
    return None
