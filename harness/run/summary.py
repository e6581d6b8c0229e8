"""What a run says of itself: its first line, its resolved config, its result."""

from __future__ import annotations


def with_problem(reason: str | None, problem: str | None) -> str | None:
    """A result's reason, and what went wrong beside it."""
    return "; ".join(filter(None, (reason, problem))) or None
