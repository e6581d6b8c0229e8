"""What an epoch of training, or a pass over a test set, came to."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Trained:
    """An epoch of training; equal on all ranks."""

    loss: float
    """Mean over the samples (or whatever the loss is divided by) of the steps that were taken; nan where there were
    none."""
    samples: int
    """Of all ranks, those of skipped steps too; not those that a collate function left out."""
    steps: int
    """That changed the parameters."""
    skipped: int
    """That overflowed in fp16 on some rank and were skipped by all."""


@dataclass(frozen=True)
class Tested:
    """A pass over a test set; equal on all ranks."""

    loss: float
    samples: int
    metric: float | None = None
    """Mean over all samples; None where no metric was asked for."""


@dataclass
class Tally:
    """Of the steps of an epoch."""

    loss: float = 0.0
    counted: float = 0.0
    samples: int = 0
    own_samples: int = 0

    @property
    def mean(self) -> float:
        return self.loss / self.counted if self.counted else math.nan
