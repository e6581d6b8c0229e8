"""What people see while a study runs: a live table on a terminal, one plain line per event elsewhere."""

from __future__ import annotations

import codecs
import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

REDRAW_SECONDS = 0.5


@dataclass(frozen=True)
class Row:
    """A running trial."""

    trial: str
    state: str
    params: str
    step: int | None
    value: float | None
    """The last that it reported."""
    seconds: float


class Display(Protocol):
    def event(self, text: str) -> None:
        """Something happened."""

    def rows(self, rows: Sequence[Row], summary: str) -> None:
        """What is running now; called often."""

    def close(self) -> None: ...


class Lines:
    """One line per event."""

    def event(self, text: str) -> None:
        say(text)

    def rows(self, rows: Sequence[Row], summary: str) -> None:
        pass

    def close(self) -> None:
        pass


class LiveTable:
    """A table of what runs, under the events so far."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.live.start()
        self._drawn = 0.0

    def event(self, text: str) -> None:
        self.console.print(Text(text))

    def rows(self, rows: Sequence[Row], summary: str) -> None:
        if time.monotonic() - self._drawn < REDRAW_SECONDS:
            return
        self._drawn = time.monotonic()
        self.live.update(Group(trial_table(rows), Text(summary)), refresh=True)

    def close(self) -> None:
        self.live.stop()


class Guarded:
    """Another display for as long as it can be shown: a terminal that is gone ends the display, not the study."""

    def __init__(self, display: Display) -> None:
        self.display: Display | None = display

    def event(self, text: str) -> None:
        self._show(lambda display: display.event(text))

    def rows(self, rows: Sequence[Row], summary: str) -> None:
        self._show(lambda display: display.rows(rows, summary))

    def close(self) -> None:
        self._show(lambda display: display.close())

    def _show(self, show: Callable[[Display], None]) -> None:
        if self.display is not None:
            try:
                show(self.display)
            except OSError:
                self.display = None
                sys.stdout = open(os.devnull, "w")  # or what is still in its buffer changes the exit code


def complain(text: str) -> None:
    """One line on standard error, if anybody is there to read it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = open(os.devnull, "w")


PLAIN = {"±": "+-", "…": "...", "–": "-", "→": "->"}
"""What stands for a character that a terminal or a file of another encoding does not know."""


def plain_characters(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs: what cannot be written is written in ASCII, and ends nothing."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    shown = (PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode() for character in text)
    return "".join(shown), error.end


codecs.register_error("plain_characters", plain_characters)


def say(text: str) -> None:
    """One line on standard output, whatever its encoding."""
    try:
        print(text, flush=True)
    except UnicodeEncodeError as error:
        print(text.encode(error.encoding, "plain_characters").decode(error.encoding), flush=True)


def write_any_character() -> None:
    """From here on nothing that is printed ends a command because the encoding (`PYTHONIOENCODING`) is a narrow one."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain_characters")


def near(path: Path) -> str:
    """The path from here, where it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def plural(count: int, what: str) -> str:
    """`1 rank`, `2 ranks`."""
    return f"{count} {what}" + ("" if count == 1 else "s")


def open_display() -> Display:
    return Guarded(LiveTable() if sys.stdout.isatty() else Lines())


def trial_table(rows: Sequence[Row]) -> Table:
    table = Table("trial", "state", "parameters")
    for name in ("step", "value", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.trial, row.state, Text(row.params), "" if row.step is None else str(row.step), number(row.value),
            duration(row.seconds),
        )  # fmt: skip
    return table


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def duration(seconds: float) -> str:
    """`8 s`, `3:05`, `2:03:05`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
