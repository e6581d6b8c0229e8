"""A rollout's minibatches, one after the other: what is made of each, and whether the next is still wanted.

`HostUpdateLoop` (`training.learner`) decides on the host, from statistics that it reads: on the CPU reading them costs
nothing. `DeviceUpdateLoop` (`training.compile.device_updates`) takes the same decisions on a device, where each answer
would have to be waited for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
