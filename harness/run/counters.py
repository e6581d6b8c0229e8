"""What a run counts; equal on all ranks, kept in checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass
class Counters:
    """What a run counts; equal on all ranks, kept in checkpoints."""

    iteration: int = 0
    env_steps: int = 0
    gradient_steps: int = 0
    evaluations: int = 0
    """The number of the last one, of `evaluation.count`; a short run skips numbers."""
    evaluated: int = 0
    """How many were made."""
    best: float | None = None
    best_at: int = 0
    """`evaluated` when the best was found."""
    last: float | None = None
    """The last evaluation's mean."""
    seconds: float = 0.0
    pending: dict[str, float] | None = None
    """The metrics of the last iteration, until its evaluation is over and they are written."""


def counters_from(progress: dict[str, Any]) -> Counters:
    """As a checkpoint has them, in JSON: numbers that are none are null there."""
    counters = Counters(**progress)
    if counters.pending is not None:
        pending = {name: math.nan if value is None else value for name, value in counters.pending.items()}
        counters.pending = pending
    return counters
