"""Local steps between averages of the weights: local SGD (Stich 2019) and DiLoCo (Douillard et al. 2023).

Each rank steps on its own samples. Every so many updates the ranks average how far they have come from the weights that
they last had in common, and an outer step by Nesterov's method moves those.
"""

from __future__ import annotations

from typing import Any

import torch

from harness.distributed.arena import Arena
from harness.distributed.compression.base import MakeCompressor
from harness.distributed.mesh import Mesh
from harness.distributed.sync.base import ArenaSync
from harness.distributed.sync.weights import ArenaWeights, WeightSynchronizer
from harness.distributed.transports.base import Communicator, Work
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


class Fragment:
    """A part of an arena's weights, which is averaged in its own turn (Douillard et al. 2025, streaming DiLoCo)."""

    def __init__(self, parameters: torch.Tensor, group: Communicator, number: int, settings: LocalSGDSettings) -> None:
        self.parameters, self.group, self.number, self.settings = parameters, group, number, settings
        self.common = parameters.clone()
        """float32 (n,): the weights that the ranks last had in common."""
        self.velocity = torch.zeros_like(parameters) if settings.outer_momentum else None
        self.sent: torch.Tensor | None = None
        """float32 (n,): this rank's part of the average that is under way, then the average; None where none is."""
        self.work: Work | None = None
        self.due = 0
        """The update after which the average under way is applied."""

    def begin(self, due: int) -> None:
        """Starts to average the ranks' way from what they had in common."""
        self.sent = (self.common - self.parameters).div_(self.group.size)
        self.began_at = self.parameters.clone() if due else None
        if due:
            self.due, self.work = due, self.group.start_all_reduce(self.sent, FIRST_TAG + self.number)
        else:
            self.group.all_reduce_(self.sent, name=f"weights.{self.number}")

    def wait(self) -> None:
        if self.work is not None:
            self.work.wait()
            self.work = None

    def finish(self) -> None:
        """The outer step, on the average that is under way (Sutskever et al. 2013, with the rate outside): v = μv + Δ;
        x = x - η(Δ + μv). What this rank has stepped since `begin` stays its own."""
        self.wait()
        assert self.sent is not None
        change, momentum = self.sent, self.settings.outer_momentum
        if self.velocity is not None:
            self.velocity.mul_(momentum).add_(change)
            change = change.add_(self.velocity, alpha=momentum)
        self.common.sub_(change, alpha=self.settings.outer_lr)
        if self.began_at is None:
            self.parameters.copy_(self.common)
        else:
            self.parameters.sub_(self.began_at).add_(self.common)
        self.sent = self.began_at = None

    began_at: torch.Tensor | None = None
    """float32 (n,): this rank's weights when the average under way began, where it may step meanwhile."""

    def state(self) -> dict[str, Any]:
        self.wait()
        names = ("common", "velocity", "sent", "began_at", "due")
        return {name: getattr(self, name) for name in names}

    def load_state(self, state: dict[str, Any]) -> None:
        self.wait()  # for what was under way, which is no more
        self.common.copy_(state["common"])
        if self.velocity is not None:
            self.velocity.copy_(state["velocity"])
        sent, began_at, self.due = state["sent"], state["began_at"], state["due"]
        self.sent = None if sent is None else sent.clone()
        self.began_at = None if began_at is None else began_at.clone()


class ArenaLocalSGD(ArenaWeights):
    def __init__(self, arena: Arena, group: Communicator, settings: LocalSGDSettings) -> None:
        super().__init__(arena, group)
        self.settings = settings
        parts = arena.parameters.tensor_split(settings.fragments)
        self.fragments = [Fragment(part, group, number, settings) for number, part in enumerate(parts)]
        self.turn = 0
        """Averages that were begun: which fragment is next."""
        self.interval = float(settings.every)
        self.next = 0
        """The update after which the next average begins."""
        self.plan()

    def plan(self) -> None:
        """When the next average begins: at once in the warm-up, then after a growing number of updates, one fragment
        after another within it."""
        if self.updates < self.settings.warmup_updates:
            self.next = self.updates + 1
            return
        self.next = self.updates + max(1, round(self.interval / len(self.fragments)))
        if self.turn % len(self.fragments) == 0:
            self.interval = min(self.interval * self.settings.growth, float(self.settings.most))

    def after_step(self) -> None:
        for fragment in self.fragments:
            if fragment.sent is not None and fragment.due <= self.updates:
                self.finish(fragment)
        if self.updates < self.next:
            return
        warm = self.updates <= self.settings.warmup_updates
        chosen = self.fragments if warm else [self.fragments[self.turn % len(self.fragments)]]
        for fragment in chosen:
            if fragment.sent is not None:
                self.finish(fragment)
            delay = 0 if warm else self.settings.delay
            fragment.begin(self.updates + delay if delay else 0)
            if not delay:
                self.finish(fragment)
        self.turn += 1
        self.plan()

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

    def average(self) -> None:
        for fragment in self.fragments:
            if fragment.sent is not None:
                self.finish(fragment)
        for fragment in self.fragments:
            fragment.begin(0)
            self.finish(fragment)

    def rank_state(self) -> dict[str, Any]:
        own = {"fragments": [fragment.state() for fragment in self.fragments]}
        return {**super().rank_state(), **own, "turn": self.turn, "interval": self.interval, "next": self.next}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        super().load_rank_state(state)
        for fragment, found in zip(self.fragments, state["fragments"], strict=True):
            fragment.load_state(found)
        self.turn, self.interval, self.next = state["turn"], state["interval"], state["next"]
