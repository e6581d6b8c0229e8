"""Tables that pages quote from result files, between `<!-- from COMMAND -->` and `<!-- to here -->`."""

from __future__ import annotations

from pathlib import Path

from harness.files import write_text

END = "<!-- to here -->"


def mark(command: str) -> str:
    return f"<!-- from {command} -->"


def quote(page: Path, command: str, table: str) -> None:
    """Puts `table` between the marks of `command` in `page`. Raises ValueError where the marks are missing."""
    before, _, after = parts(page, command)
    write_text(page, f"{before}{mark(command)}\n\n{table}\n\n{END}{after}")


def quoted(page: Path, command: str) -> str:
    """What stands between the marks. Raises ValueError where they are missing."""
    return parts(page, command)[1].strip()


def parts(page: Path, command: str) -> tuple[str, str, str]:
    before, begin, rest = page.read_text().partition(mark(command))
    table, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no {mark(command)} … {END}")
    return before, table, after
