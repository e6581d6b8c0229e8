"""Local steps between averages of the weights: local SGD (Stich 2019) and DiLoCo (Douillard et al. 2023).

Each rank steps on its own samples. Every so many updates the ranks average how far they have come from the weights that
they last had in common, and an outer step by Nesterov's method moves those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from harness.distributed.arena import Arena
from harness.distributed.compression.base import MakeCompressor
from harness.distributed.mesh import Mesh
from harness.distributed.sync.base import ArenaSync
from harness.distributed.sync.weights import ArenaWeights, WeightSynchronizer
from harness.distributed.transports.base import DONE, Communicator, Work
from harness.schema import LocalSGDSettings

FIRST_TAG = 100
"""Of the averages that may be under way together."""


class LocalSGD(WeightSynchronizer):
    """`sync.kind = "local_sgd"`. With `every = 1` and plain SGD it is the all-reduce of gradients, to rounding."""

    def __init__(self, mesh: Mesh, make_compressor: MakeCompressor = lambda: None, **settings: Any) -> None:
        """`settings`: those of `sync.local_sgd`."""
        super().__init__(mesh, make_compressor)
        self.settings = LocalSGDSettings(**settings)

    def attach(self, arena: Arena, name: str) -> ArenaSync:
        self.arenas[name] = ArenaLocalSGD(arena, self.mesh.data, self.settings)
        return self.arenas[name]


@dataclass
class UnderWay:
    """An average that has begun."""

    change: torch.Tensor
    """float32 (n,): this rank's part of the mean way, then that mean."""
    began_at: torch.Tensor
    """float32 (n,): this rank's weights then."""
    due: int
    """The update after which it is applied."""
    work: Work = DONE


class Fragment:
    """A part of an arena's weights, which is averaged in its own turn (Douillard et al. 2025, streaming DiLoCo)."""

    def __init__(self, parameters: torch.Tensor, group: Communicator, number: int, settings: LocalSGDSettings) -> None:
        self.parameters, self.group, self.number, self.settings = parameters, group, number, settings
        self.common, self.velocity = torch.empty_like(parameters), torch.empty_like(parameters)
        """float32 (n,): the weights that the ranks last had in common, and how the outer step moves them."""
        self.under_way: UnderWay | None = None
        self.restart()

    def restart(self) -> None:
        self.wait()
        self.common.copy_(self.parameters)
        self.velocity.zero_()
        self.under_way = None

    def begin(self, now: int, delay: int) -> None:
        """Starts to average the ranks' ways from what they had in common."""
        own = (self.common - self.parameters).div_(self.group.size)
        self.under_way = UnderWay(own, self.parameters.clone(), now + delay)
        if delay:
            self.under_way.work = self.group.start_all_reduce(own, FIRST_TAG + self.number)
        else:
            self.group.all_reduce_(own, name=f"weights.{self.number}")

    def wait(self) -> None:
        if self.under_way is not None:
            self.under_way.work.wait()
            self.under_way.work = DONE

    def finish(self) -> None:
        """The outer step, on the average that is under way (Sutskever et al. 2013, with the rate outside): v = μv + Δ;
        x = x - η(Δ + μv). What this rank has stepped since `begin` stays its own."""
        self.wait()
        assert self.under_way is not None
        change, momentum = self.under_way.change, self.settings.outer_momentum
        self.velocity.mul_(momentum).add_(change)
        self.common.sub_(change.add_(self.velocity, alpha=momentum), alpha=self.settings.outer_lr)
        own_way = self.parameters - self.under_way.began_at  # zeros where nothing was stepped: then all ranks are equal
        torch.add(self.common, own_way, out=self.parameters)
        self.under_way = None

    def state(self) -> dict[str, Any]:
        self.wait()
        going = self.under_way
        parts = None if going is None else {"change": going.change, "began_at": going.began_at, "due": going.due}
        return {"common": self.common, "velocity": self.velocity, "under_way": parts}

    def load_state(self, state: dict[str, Any]) -> None:
        self.wait()  # for what was under way, which is no more
        self.common.copy_(state["common"])
        self.velocity.copy_(state["velocity"])
        going = state["under_way"]
        self.under_way = None
        if going is not None:
            self.under_way = UnderWay(going["change"].clone(), going["began_at"].clone(), going["due"])


class ArenaLocalSGD(ArenaWeights):
    def __init__(self, arena: Arena, group: Communicator, settings: LocalSGDSettings) -> None:
        super().__init__(arena, group)
        self.settings = settings
        parts = arena.parameters.tensor_split(settings.fragments)
        self.fragments = [Fragment(part, group, number, settings) for number, part in enumerate(parts)]
        self.restart()

    def restart(self) -> None:
        super().restart()
        for fragment in self.fragments:
            fragment.restart()
        self.turn = 0
        """Averages that were begun: which fragment is next."""
        self.interval = float(self.settings.every)
        self.plan()

    def plan(self) -> None:
        """When the next average begins: at once in the warm-up, then after a growing number of updates, one fragment
        after another within it."""
        if self.updates < self.settings.warmup_updates:
            self.next = self.updates + 1
            return
        self.next = self.updates + round(self.interval / len(self.fragments))
        if self.turn % len(self.fragments) == 0:
            self.interval = min(self.interval * self.settings.growth, float(self.settings.most))

    def after_step(self) -> None:
        for fragment in self.fragments:
            if fragment.under_way is not None and fragment.under_way.due <= self.updates:
                self.finish(fragment)
        if self.updates < self.next:
            return
        warm = self.updates <= self.settings.warmup_updates
        for fragment in self.fragments if warm else [self.fragments[self.turn % len(self.fragments)]]:
            if fragment.under_way is not None:
                self.finish(fragment)
            delay = 0 if warm else self.settings.delay
            fragment.begin(self.updates, delay)
            if not delay:
                self.finish(fragment)
        self.turn += 1
        self.plan()

    def complete(self) -> None:
        for fragment in self.fragments:
            if fragment.under_way is not None:
                self.finish(fragment)

    def finish(self, fragment: Fragment) -> None:
        fragment.finish()
        if fragment is self.fragments[-1]:
            self.agree_on_moments()

    def agree_on_moments(self) -> None:
        """What becomes of the optimizer's own means when weights are averaged; a rank that has none yet, since it
        skipped its steps, has none on any."""
        if self.settings.moments == "keep":
            return
        for name, value in self.moments():
            if self.settings.moments == "reset":
                value.zero_()
            else:
                self.group.all_reduce_(value, name=name).div_(self.group.size)

    def rank_state(self) -> dict[str, Any]:
        own = {"fragments": [fragment.state() for fragment in self.fragments]}
        return {**super().rank_state(), **own, "turn": self.turn, "interval": self.interval, "next": self.next}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        super().load_rank_state(state)
        for fragment, found in zip(self.fragments, state["fragments"], strict=True):
            fragment.load_state(found)
        self.turn, self.interval, self.next = state["turn"], state["interval"], state["next"]
