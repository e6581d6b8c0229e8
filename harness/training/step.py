"""One step of data-parallel training: loss -> gradient agreed by all ranks -> optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from harness.distributed.agreement import broadcast_state
from harness.distributed.arena import Arena
from harness.distributed.mesh import mesh_on_one_channel
from harness.distributed.sync.allreduce import AllReduce
from harness.distributed.sync.base import ArenaSync, Synchronizer
from harness.distributed.transports.base import Communicator
from harness.errors import Diverged
from harness.training.flat_optimizers import FlatOptimizer
from harness.training.precision import Precision

LossAndStatistics = tuple[torch.Tensor, torch.Tensor]


class Step:
    """The step that every algorithm uses, in two halves: `gradient`, which the ranks agree on, and `apply`. How they
    agree is the synchronizer's.

    Between them an algorithm may look at the statistics, which are those of all ranks, and decide not to apply: the
    decision is then the same everywhere.
    """

    def __init__(
        self,
        module: nn.Module,
        make_optimizer: Callable[[Arena], torch.optim.Optimizer | FlatOptimizer],
        communicator: Communicator,
        precision: Precision,
        statistics: int = 0,
        max_grad_norm: float | None = None,
        tracks_use: bool = False,
        synchronizer: Synchronizer | None = None,
        name: str = "policy",
    ) -> None:
        """`tracks_use`: a parameter that no rank's backward pass reached has no gradient for the optimizer, as in torch
        alone, rather than a zero one, which momentum and weight decay would act on; not for one of `arena.flat`.

        `synchronizer`: the run's; None sums gradients over `communicator`. `name` tells the run's arenas apart.
        """
        broadcast_state(communicator, module)
        self.module, self.communicator, self.precision = module, communicator, precision
        self.statistics, self.tracks_use, self.name = statistics, tracks_use, name
        self.synchronizer = synchronizer or AllReduce(mesh_on_one_channel(communicator))
        self._attach()
        self.optimizer = make_optimizer(self.arena)
        self.sync.follow(self.optimizer)
        self.max_grad_norm = max_grad_norm
        self.gradient_steps = 0
        self.skipped_steps = 0

    def lay_out(self) -> None:
        """Lays the module's trainable parameters into an arena once more, when they are others than before."""
        self.sync.close()
        self._attach()
        self.sync.follow(self.optimizer)

    def _attach(self) -> None:
        self.arena = Arena(self.module, tail=self.statistics, tracks_use=self.tracks_use)
        self.sync: ArenaSync = self.synchronizer.attach(self.arena, self.name)

    def reduce_at_once(self) -> None:
        """For all ranks, where gradients do not come from `fill`: nothing is reduced before `reduce`."""
        self.sync.reduce_at_once()

    def gradient(self, compute: Callable[[], LossAndStatistics] | None, weight: float) -> torch.Tensor:
        """The gradient of the ranks' weighted losses, summed into the arena; returns the statistics, summed too."""
        self.fill(compute, weight)
        return self.reduce()

    def fill(self, compute: Callable[[], LossAndStatistics] | None, weight: float, add: bool = False) -> None:
        """This rank's part of the gradient and the statistics, in the arena, to be reduced (a large one already is, in
        part).

        `compute` returns the mean loss of this rank's samples and a float vector (statistics,) of means over them.
        `weight` is this rank's share of the samples, so that the weights of all ranks add up to 1 and unequal shares
        are right. A rank without samples has weight 0 and takes part in the reduce all the same: with `compute=None`,
        or with one that is there for its own collectives alone and leaves nothing else behind.

        `add`: to what lies in the arena already, which nothing may have reduced: several batches make one step.
        """
        arena, precision = self.arena, self.precision
        before = arena.wire.clone() if add else None
        arena.wire.zero_()
        if self.tracks_use:
            arena.release_gradients()
        if compute is not None:
            with precision.autocast():
                loss, statistics = compute()
            loss = loss * (weight * precision.scale)
            if weight:
                self.sync.begin()
            loss.backward()
        arena.own_gradients()
        if weight == 0.0:
            arena.wire.zero_()
        elif compute is not None and arena.tail.numel():
            arena.tail.copy_(statistics).mul_(weight)
        if before is not None:
            arena.wire.add_(before)

    def reduce(self) -> torch.Tensor:
        """Makes of `arena.wire`, however it was filled, what the step is taken on; returns the statistics, summed over
        the ranks."""
        self.sync.reduce()
        return self.arena.tail

    def apply(self, divisor: float = 1.0) -> bool:
        """Unscale, clip and step on the agreed gradient; False where it overflowed and all ranks skipped the step.

        `divisor`: what the ranks' weights come to where that is not 1; the gradient is divided by it.

        Raises Diverged, on all ranks alike, where the gradient is not finite and no loss scale can be to blame.
        """
        gradients, precision = self.arena.gradients, self.precision
        scale = precision.scale * divisor
        norm = float(torch.linalg.vector_norm(gradients)) / scale  # not finite exactly where an element is not
        finite = math.isfinite(norm)
        precision.update(finite)
        if not finite:
            self.skipped_steps += 1
            if not precision.scales_loss:
                raise Diverged("non-finite gradient")
            if precision.exhausted:
                raise Diverged("non-finite gradient at every loss scale down to 1")
            self.sync.step(None)
            return False
        factor = clip_factor(norm, self.max_grad_norm) / scale
        if factor != 1.0:
            gradients.mul_(factor)
        if self.tracks_use:
            self.arena.release_unused()
        self.sync.step(self.optimizer.step)  # asked for each time: schedulers and scripts wrap a user's own
        self.gradient_steps += 1
        return True


def clip_factor(norm: float, max_norm: float | None) -> float:
    """What a gradient of 2-norm `norm` is multiplied by so that its norm is at most `max_norm` (Pascanu et al. 2013),
    as torch's clip_grad_norm_ has it."""
    return 1.0 if max_norm is None else min(1.0, max_norm / (norm + 1e-6))
