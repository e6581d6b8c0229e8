"""The live display's picture of a status, by rich."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.reporting.status import Status, as_clock

BAR_CELLS = 24
COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "red")


def picture(title: str, status: Status) -> RenderableType:
    heading = f"{title} · {status.ranks} rank{'s' if status.ranks != 1 else ''} · {status.sync_path}"
    body: list[RenderableType] = [progress_row(status), numbers_row(status)]
    if status.phase_shares:
        body.append(phases_table(status))
    return Panel(Group(*body), title=Text(heading), title_align="left", expand=False)


def progress_row(status: Status) -> Table:
    row = Table.grid(padding=(0, 2))
    left = "" if status.eta_seconds is None else f", {as_clock(status.eta_seconds)} left"
    row.add_row(
        ProgressBar(total=max(status.total_steps, 1), completed=status.env_steps, width=BAR_CELLS),
        f"{status.env_steps:,} of {status.total_steps:,} steps",
        f"{as_clock(status.seconds)} gone{left}",
    )
    return row


def numbers_row(status: Status) -> Table:
    row = Table.grid(padding=(0, 2))
    numbers = [f"{status.env_steps_per_second:,.0f} steps/s"]
    for name, value in (("return", status.return_mean), ("evaluation", status.eval_mean), ("best", status.best)):
        numbers.append(f"{name} {'-' if value is None else format(value, '.4g')}")
    row.add_row(*numbers)
    return row


def phases_table(status: Status) -> Table:
    """One bar a phase, longest first."""
    table = Table.grid(padding=(0, 2))
    ordered = sorted(status.phase_shares.items(), key=lambda item: -item[1])
    for (phase, share), colour in zip(ordered, COLOURS * len(ordered)):
        table.add_row(phase, Text("█" * round(share * BAR_CELLS), style=colour), f"{share:.0%}")
    return table
