"""What a run counts."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any


@dataclass
class Counters:
    """Equal on all ranks, and kept in checkpoints."""

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

    def restore(self, progress: dict[str, Any], evaluations: int, iterations: int) -> None:
        """As a checkpoint has them, in JSON: numbers that are none are null there. `evaluations`, `iterations`: of the
        whole budget, which may be another than the checkpoint's."""
        restored = Counters(**progress)
        for each in fields(self):
            setattr(self, each.name, getattr(restored, each.name))
        if self.pending is not None:
            self.pending = {name: math.nan if value is None else value for name, value in self.pending.items()}
        # how many there were by now, had the budget always been the present one
        done = self.iteration - (self.pending is not None)
        self.evaluations = done * evaluations // iterations

    @property
    def written(self) -> tuple[int, int]:
        """The last update whose metrics are written, and the environment steps up to it."""
        if self.pending is None:
            return self.iteration, self.env_steps
        return self.iteration - 1, self.env_steps - 1  # the last one's come with its evaluation

    @property
    def env_steps_per_second(self) -> float:
        return self.env_steps / self.seconds if self.seconds else 0.0
