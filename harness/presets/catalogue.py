"""The presets as a table: what each is, the return that it reaches, its steps, and how long it takes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.config import load_table, preset_names, preset_path

MINUTES = re.compile(r",? (?:in )?(?:about )?([\d.]+) minutes?")


@dataclass(frozen=True)
class Entry:
    """A preset by its first line: `# PPO on CartPole-v1: 500 within 100,000 steps, 0.3 minutes.`"""

    name: str
    what: str
    expected: str
    """The return that it reaches, or whatever else its value is."""
    steps: int | None
    """The budget; None where the algorithm has one of its own."""
    minutes: str
    """On one rank, as measured."""

    @classmethod
    def of(cls, name: str) -> Entry:
        what, _, rest = preset_path(name).read_text().splitlines()[0].lstrip("# ").partition(": ")
        minutes = MINUTES.search(rest)
        expected = re.split(r" within | after ", MINUTES.sub("", rest))[0].rstrip(".")
        steps = load_table(name)["run"].get("steps")
        return cls(name, what.rstrip("."), expected, steps, minutes[1] if minutes else "")


def catalogue() -> str:
    """Of all presets, in columns."""
    entries = [Entry.of(name) for name in preset_names()]
    head = ("preset", "what", "return", "steps", "minutes")
    rows = [
        (each.name, each.what, each.expected, f"{each.steps:,}" if each.steps else "", each.minutes) for each in entries
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    lines = []
    for row in [head, *rows]:
        cells = [
            cell.rjust(width) if at > 2 else cell.ljust(width) for at, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
