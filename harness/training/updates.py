"""A rollout's minibatches, one after the other: what is made of each, and whether the next is still wanted.

`HostUpdateLoop` decides on the host, from statistics that it reads: on the CPU reading them costs nothing.
`DeviceUpdateLoop` (`training.compile.device_updates`) takes the same decisions on a device, where each answer would
have to be waited for.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.errors import Diverged
from harness.training.step import Step


@dataclass(frozen=True)
class Minibatch:
    """This rank's part of one."""

    rows: np.ndarray
    """int64 (n,): its samples; none where this rank has no part in it."""
    numbers: tuple[float, ...]
    """What is given with it beside them."""
    weight: float
    """This rank's share of the samples."""


@dataclass(frozen=True)
class KlStop:
    """The updates of a rollout end before the step at which the statistic number `at`, the KL divergence, exceeds
    `limit`."""

    at: int
    limit: float | None


@dataclass(frozen=True)
class UpdateSummary:
    """What became of a rollout's minibatches; equal on all ranks."""

    batches: int
    """Those before the stop on KL, the skipped ones among them."""
    taken: int
    """Steps of the optimizer."""
    means: list[float]
    """Of the statistics, over the batches."""
    stopped: bool
    kl: float
    """Of the last batch that was looked at: of the one that stopped the updates."""


class UpdateLoop(ABC):
    """`begin`; for each minibatch in its turn `gradient`, the reduce, `apply`, until that says no; `finish`.

    The first statistic is the loss.
    """

    notice = ""
    """What a person should know of how they are taken, if anything."""

    @abstractmethod
    def begin(self, minibatches: Sequence[Minibatch], epoch: int) -> None:
        """`epoch`: how many of them make an epoch."""

    @abstractmethod
    def gradient(self, number: int) -> None:
        """Fills the arena with this rank's part of minibatch `number`: of its gradient and its statistics."""

    @abstractmethod
    def apply(self, number: int) -> bool:
        """The step on what all ranks have reduced, or the decision not to take it; False where the updates are over.

        Raises Diverged, on all ranks alike, now or by the end.
        """

    @abstractmethod
    def finish(self) -> UpdateSummary:
        """What became of them."""


class HostUpdateLoop(UpdateLoop):
    """Reads the statistics of each minibatch and decides."""

    def __init__(self, step: Step, fill: Callable[[np.ndarray, Any, float], None], stop: KlStop) -> None:
        """`fill(rows, numbers, weight)`: fills the arena from a minibatch."""
        self.step, self.fill = step, fill
        self.stop_at = stop.at
        self.limit = math.inf if stop.limit is None else stop.limit

    def begin(self, minibatches: Sequence[Minibatch], epoch: int) -> None:
        self.minibatches = minibatches
        self.totals = torch.zeros(self.step.arena.tail.numel(), dtype=torch.float64)
        self.batches, self.taken, self.stopped, self.kl = 0, 0, False, math.nan

    def gradient(self, number: int) -> None:
        minibatch = self.minibatches[number]
        self.fill(minibatch.rows, minibatch.numbers, minibatch.weight)

    def apply(self, number: int) -> bool:
        step = self.step
        statistics = step.arena.tail.cpu()
        values = statistics.tolist()
        if not math.isfinite(values[0]) and not step.precision.scales_loss:
            raise Diverged("non-finite loss")
        self.kl = values[self.stop_at]
        if self.kl > self.limit:
            self.stopped = True
            return False
        self.totals += statistics
        self.taken += step.apply()
        self.batches += 1
        return True

    def finish(self) -> UpdateSummary:
        means = (self.totals / max(self.batches, 1)).tolist()
        return UpdateSummary(self.batches, self.taken, means, self.stopped, self.kl)
