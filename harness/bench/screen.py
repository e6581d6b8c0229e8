"""What a bench shows while and after it measures: a terminal's spinner and table, or plain lines."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console, RenderableType
from rich.text import Text

WIDTH = 150
"""Of tables where there is no terminal."""


class Screen:
    """`doing` tells what is measured now, on standard error where nobody draws; the rest goes to standard output."""

    def __init__(self) -> None:
        self.draws = sys.stdout.isatty()
        self.console = Console() if self.draws else Console(width=WIDTH)
        self.status = self.console.status("")

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.status.stop()

    def doing(self, what: str) -> None:
        if self.draws:
            self.status.update(f"measuring: {what}")
            self.status.start()
        else:
            print(f"measuring: {what}", file=sys.stderr, flush=True)

    def show(self, table: RenderableType) -> None:
        self.status.stop()
        self.console.print(table)

    def say(self, line: str) -> None:
        self.status.stop()
        self.console.print(Text(line), soft_wrap=True)


def shown(ranks: int) -> str:
    return f"{ranks} rank{'s' if ranks > 1 else ''}"
