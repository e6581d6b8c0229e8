"""Averages with neighbours: decentralised SGD (Lian et al. 2017), by push-sum where edges go one way (Assran et al.
2019), on one-peer exponential graphs if nothing else is said (Ying et al. 2021)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any, ClassVar

import torch

from harness.distributed.arena import Arena
from harness.distributed.compression.base import MakeCompressor
from harness.distributed.mesh import Mesh
from harness.distributed.sync.base import ArenaSync
from harness.distributed.sync.topologies import edges_of, weights_of
from harness.distributed.sync.weights import ArenaWeights, WeightSynchronizer
from harness.distributed.transports.base import Capability, Communicator, Work
from harness.schema import GossipSettings, SyncSettings

FIRST_TAG = 200
"""Of the messages of the first arena; each arena has one."""


class Turn:
    """Whom this rank hears from and sends to in an iteration, and how much of each it takes."""

    def __init__(self, matrix: list[list[Fraction]], rank: int) -> None:
        others = [other for other in range(len(matrix)) if other != rank]
        self.own = float(matrix[rank][rank])
        self.sources = {other: float(matrix[rank][other]) for other in others if matrix[rank][other]}
        self.targets = [other for other in others if matrix[other][rank]]


def matrices_of(settings: GossipSettings, size: int) -> list[list[list[Fraction]]]:
    """The weights of each iteration, which take turns; ValueError where the settings make no graph of so many ranks."""
    iterations = [[]] if size == 1 else settings.edges or edges_of(settings.topology, size)
    return [weights_of(edges, size, settings.push_sum) for edges in iterations]


class Gossip(WeightSynchronizer):
    """`sync.kind = "gossip"`."""

    needs: ClassVar[frozenset[Capability]] = frozenset({Capability.POINT_TO_POINT})

    def __init__(self, mesh: Mesh, make_compressor: MakeCompressor = lambda: None, **settings: Any) -> None:
        """`settings`: those of `sync.gossip`. ValueError where they make no graph of these ranks."""
        super().__init__(mesh, make_compressor)
        self.settings = GossipSettings(**settings)
        self.turns = [Turn(matrix, mesh.data.rank) for matrix in matrices_of(self.settings, mesh.data.size)]

    @classmethod
    def refuses(cls, settings: SyncSettings, size: int) -> str | None:
        name = "edges" if settings.gossip.edges is not None else "topology"
        try:
            matrices_of(settings.gossip, size)
        except ValueError as error:
            return f"sync.gossip.{name} = {getattr(settings.gossip, name)!r}: {error}"
        return None

    def attach(self, arena: Arena, name: str) -> ArenaSync:
        tag = FIRST_TAG + len(self.arenas)
        self.arenas[name] = ArenaGossip(arena, self.mesh.data, self.turns, self.settings, tag)
        return self.arenas[name]


class ArenaGossip(ArenaWeights):
    def __init__(
        self, arena: Arena, group: Communicator, turns: list[Turn], settings: GossipSettings, tag: int
    ) -> None:
        super().__init__(arena, group)
        self.turns, self.settings, self.tag = turns, settings, tag
        self.exchanged = 0
        """Exchanges that were begun: whose turn is next."""
        parts = arena.size + settings.push_sum
        device = arena.wire.device
        self.sent = torch.empty(parts, device=device)
        """float32 (n,) or (n + 1,): this rank's weights when the exchange under way began, times their mass, and it."""
        self.heard = {source: torch.empty(parts, device=device) for turn in turns for source in turn.sources}
        self.began_at = torch.empty(arena.size, device=device)
        self.works: list[Work] = []
        self.under_way: Turn | None = None
        self.mass = 1.0
        """How much weight this rank's part carries; 1 without push-sum."""

    def take_step(self, take: Callable[[], object] | None) -> None:
        if self.mass == 1.0:
            return super().take_step(take)
        parameters = self.arena.parameters
        before = parameters.clone()
        super().take_step(take)
        parameters.sub_(before).div_(self.mass).add_(before)  # a step counts the same whatever mass its rank carries

    def after_step(self) -> None:
        self.complete()
        if self.updates % self.settings.every:
            return
        self.exchange(self.turns[self.exchanged % len(self.turns)])
        self.exchanged += 1
        if not self.settings.overlap:
            self.finish()

    def exchange(self, turn: Turn) -> None:
        self.under_way, parameters = turn, self.arena.parameters
        if self.settings.overlap:
            self.began_at.copy_(parameters)
        torch.mul(parameters, self.mass, out=self.sent[: self.arena.size])
        if self.settings.push_sum:
            self.sent[-1] = self.mass
        receive = functools.partial(self.group.receive, tag=self.tag)
        self.works = [receive(self.heard[source], source=source) for source in turn.sources]
        self.works += [self.group.send(self.sent, to=target, tag=self.tag) for target in turn.targets]

    def wait(self) -> None:
        while self.works:
            self.works.pop(0).wait()

    def finish(self) -> None:
        """Takes the average that the exchange under way makes; what this rank has stepped meanwhile stays its own."""
        self.wait()
        turn, parameters = self.under_way, self.arena.parameters
        assert turn is not None
        total = self.sent.mul_(turn.own)  # it has been sent
        for source, weight in turn.sources.items():
            # in push-sum and in doubly stochastic graphs alike, `weight` is what of its part the source gives
            total.add_(self.heard[source], alpha=weight)
        mass = self.mass
        if self.settings.push_sum:
            self.mass = float(total[-1])
            total = total[:-1].div_(self.mass)
        if self.settings.overlap:
            parameters.sub_(self.began_at).mul_(mass / self.mass).add_(total)
        else:
            parameters.copy_(total)
        self.under_way = None

    def complete(self) -> None:
        if self.under_way is not None:
            self.finish()

    def mean_(self) -> None:
        """By the ranks' masses, which sum to the number of ranks."""
        self.arena.parameters.mul_(self.mass)
        super().mean_()

    def restart(self) -> None:
        super().restart()
        self.wait()
        self.exchanged, self.mass, self.under_way = 0, 1.0, None

    def rank_state(self) -> dict[str, Any]:
        self.wait()
        of_exchange = {"sent": self.sent, "heard": self.heard, "began_at": self.began_at}
        turn = None if self.under_way is None else self.turns.index(self.under_way)
        own = {"exchanged": self.exchanged, "mass": self.mass, "under_way": turn}
        return {**super().rank_state(), **own, **({} if turn is None else of_exchange)}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        self.wait()  # for what was under way, which is no more
        super().load_rank_state(state)
        self.exchanged, self.mass, turn = state["exchanged"], state["mass"], state["under_way"]
        self.under_way = None if turn is None else self.turns[turn]
        if turn is not None:
            self.sent.copy_(state["sent"])
            self.began_at.copy_(state["began_at"])
            for source, heard in self.heard.items():
                heard.copy_(state["heard"][source])
