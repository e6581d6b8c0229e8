"""What is shown of a run: its status, and the line of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Status:
    """One look at a run, all ranks together."""

    env_steps: int
    total_steps: int
    env_steps_per_second: float
    seconds: float
    """Since the run began."""
    ranks: int
    sync_path: str
    eta_seconds: float | None = None
    return_mean: float | None = None
    """Mean return of the latest training episodes; None before the first has ended."""
    eval_mean: float | None = None
    """Mean of the latest evaluation; None before the first."""
    best: float | None = None
    phase_shares: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Share of the time that each phase of the loop takes, in [0, 1]."""


def status_line(status: Status) -> str:
    """The status as one line of text."""
    done = 100.0 * status.env_steps / max(status.total_steps, 1)
    parts = [
        f"{status.env_steps:,} of {status.total_steps:,} steps ({done:.0f} %)",
        f"{status.env_steps_per_second:,.0f} steps/s",
    ]
    for name, value in (("return", status.return_mean), ("evaluation", status.eval_mean), ("best", status.best)):
        if value is not None:
            parts.append(f"{name} {value:.4g}")
    if status.eta_seconds is not None:
        parts.append(f"{as_clock(status.eta_seconds)} left")
    if status.phase_shares:
        parts.append(" ".join(f"{phase} {share:.0%}" for phase, share in status.phase_shares.items()))
    return ", ".join(parts)


def as_clock(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss under an hour."""
    minutes, rest = divmod(max(int(round(seconds)), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
