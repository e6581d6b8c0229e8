"""What synchronizers share that let each rank step on its own gradient and agree on weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from harness.distributed.arena import Arena
from harness.distributed.sync.base import ArenaSync, Optimizer, Synchronizer
from harness.distributed.transports.base import Communicator


class ArenaWeights(ArenaSync):
    """Makes of this rank's part of the gradient the one that its own step is taken on. Ranks decide by the tail, which
    is summed each time: some numbers in place of the gradient."""

    def __init__(self, arena: Arena, group: Communicator) -> None:
        self.arena, self.group = arena, group
        self.optimizer: Optimizer | None = None
        self.updates = 0
        """Steps that were asked for, skipped ones too; equal on all ranks."""
        behind = arena.wire.numel() - arena.size
        self.shared = torch.zeros(behind + 1, device=arena.wire.device)
        """The tail and the uses, and how many ranks' gradients are not finite."""

    def follow(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def reduce(self) -> None:
        arena = self.arena
        arena.gradients.mul_(self.group.size)  # they were weighted for a sum over all ranks
        behind, shared = arena.wire[arena.size :], self.shared
        shared[:-1] = behind
        shared[-1] = not math.isfinite(float(torch.linalg.vector_norm(arena.gradients)))
        self.group.all_reduce_(shared, name="statistics")
        behind.copy_(shared[:-1])
        if shared[-1]:
            arena.gradients[0] = math.nan  # all ranks skip the step, or end, together

    def step(self, take: Callable[[], object] | None) -> None:
        self.take_step(take)
        self.updates += 1
        self.after_step()

    def take_step(self, take: Callable[[], object] | None) -> None:
        """This rank's own step, None where all ranks skip it."""
        if take is not None:
            take()

    def after_step(self) -> None:
        """Each rank has taken its own step, or all of them have skipped it; collective."""

    def complete(self) -> None:
        """Applies what is under way; collective."""

    def mean_(self) -> None:
        """Every rank's weights become the mean of all; collective."""
        self.group.all_reduce_(self.arena.parameters, name="weights").div_(self.group.size)

    # -- state ---------------------------------------------------------------------------------------------------------

    def moments(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The optimizer's tensors that are as long as what they are of, by name: means of gradients, not counts."""
        if self.optimizer is not None:
            for number, (parameter, values) in enumerate(self.optimizer.state.items()):
                for name, value in values.items():
                    if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                        yield f"{number}.{name}", value

    def rank_state(self) -> dict[str, Any]:
        return {"parameters": self.arena.parameters, "moments": dict(self.moments()), "updates": self.updates}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        self.arena.parameters.copy_(state["parameters"])
        self.updates = state["updates"]
        for name, value in self.moments():
            value.copy_(state["moments"].get(name, torch.zeros_like(value)))

    def restart(self) -> None:
        """Begins with the weights that are there, which are equal on all ranks, as if there had been no update."""
        self.updates = 0


class WeightSynchronizer(Synchronizer):
    """The base of those whose replicas are equal once settled alone."""

    acts_on_gradients = replicas_equal = same_experiment = False

    def __init__(self, mesh: Any, make_compressor: Any = lambda: None) -> None:
        super().__init__(mesh, make_compressor)
        self.arenas: dict[str, ArenaWeights] = {}

    def settle(self) -> None:
        for arena in self.arenas.values():
            arena.complete()
            arena.mean_()

    def rank_state(self) -> dict[str, Any]:
        return {name: arena.rank_state() for name, arena in self.arenas.items()}

    def load_rank_state(self, state: dict[str, Any] | None) -> str | None:
        for name, arena in self.arenas.items():
            if state is None:
                arena.restart()
            else:
                arena.load_rank_state(state[name])
        if state is not None:
            return None
        return (
            "other ranks wrote the checkpoint: each rank resumes from the mean of their weights, without what was its "
            "own"
        )
