"""`python -m harness doctor`: what works on this machine, in one table, and what to do about what does not.

What counts is what really works: libraries are loaded, a database is written, two ranks reduce a vector over each path.
All of it happens in processes of their own with a time limit, so that a library that crashes or hangs is one row of the
table and not the end of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.doctor.libraries import check_gymnasium, check_horovod, check_programs, check_torch
from harness.doctor.machine import check_compiler, check_cores, check_database, check_slurm
from harness.doctor.ranks import check_reduces
from harness.doctor.rows import Row, State

COLOURS: dict[State, str] = {"ok": "green", "missing": "yellow", "broken": "red"}
NEEDED = ("torch", "gymnasium")
"""Without these nothing trains; without the rest, one rank does."""

CHECKS: tuple[Callable[[], list[Row]], ...] = (
    check_torch,
    check_gymnasium,
    check_horovod,
    check_programs,
    check_cores,
    check_slurm,
    check_database,
    check_compiler,
)


def check_all() -> list[Row]:
    """All rows: what loads side by side, then the ranks one path after the other, which is what they are used to."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        rows = [row for found in pool.map(lambda check: check(), CHECKS) for row in found]
    return rows + check_reduces()


def verdict(rows: list[Row]) -> tuple[int, str]:
    """The exit code, and what it means in a sentence."""
    lacking = [row.what for row in rows if row.what in NEEDED and row.state != "ok"]
    if lacking:
        return 1, f"No training can run here: {' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} needed."
    paths = [row.what.removeprefix("2 ranks: ") for row in rows if row.what.startswith("2 ranks") and row.state == "ok"]
    if not paths:
        return 0, "Training runs here on one rank only: no path between ranks works."
    return 0, f"Training runs here, on one rank and on several ({'; '.join(paths)})."


def draw(rows: list[Row]) -> Table:
    table = Table(title="What works here", title_justify="left")
    for heading in ("what", "state", "detail", "what to do"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(row.what, Text(row.state, style=COLOURS[row.state]), Text(row.detail), Text(row.advice))
    return table


def main() -> int:
    """Draws the table; 1 if no training could run here, else 0."""
    console = Console() if sys.stdout.isatty() else Console(width=160)
    with console.status("loading libraries, writing a database, starting ranks …"):
        rows = check_all()
    code, sentence = verdict(rows)
    console.print(draw(rows))
    console.print(Text(sentence))
    return code
