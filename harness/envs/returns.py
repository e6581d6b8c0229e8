"""What whole episodes of a policy came to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Evaluation:
    """Whole episodes of the policy, over all ranks; equal on all ranks."""

    returns: np.ndarray
    """Float64 (episodes,): undiscounted returns in the order of the episodes, whatever rank ran them."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of `env.info_metrics` the means over the episodes, by their names; filled where a policy is evaluated."""
    cut: int = 0
    """Episodes that were cut by `evaluation.max_steps`; as above."""

    @property
    def mean(self) -> float:
        return float(self.returns.mean()) if len(self.returns) else math.nan

    @property
    def std(self) -> float:
        return float(self.returns.std()) if len(self.returns) else math.nan
