"""How ranks stay one policy, as an object: a synchronizer for the run, and its hooks in each update of an arena.

synchronizer = make_synchronizer(…)               one a run
sync = synchronizer.attach(arena, "policy")       one an arena
for each update, on every rank:
    sync.begin()                                  before the backward pass, where there is one
    sync.reduce()                                 gradient methods work here
    sync.step(take)                               weight methods work here
synchronizer.settle()                             before an evaluation, a checkpoint, the end
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

import torch
from torch.utils._pytree import tree_map_only

from harness.distributed.agreement import check_equal
from harness.distributed.arena import Arena
from harness.distributed.compression.base import MakeCompressor
from harness.distributed.mesh import Mesh
from harness.distributed.transports.base import Capability
from harness.schema import SyncSettings


class Optimizer(Protocol):
    """What synchronizers ask of one."""

    @property
    def state(self) -> Mapping[torch.Tensor, Mapping[str, Any]]: ...


class ArenaSync(ABC):
    """Of one arena. Each update calls these in this order on every rank, also on one without samples."""

    overlaps: bool = False
    """Whether parts of the gradient are on their way before `reduce`."""

    def follow(self, optimizer: Optimizer) -> None:
        """`optimizer` takes the steps from now on."""

    def begin(self) -> None:
        """What follows is a backward pass whose gradients are this rank's part; not called where gradients come
        otherwise, or count nothing."""

    @abstractmethod
    def reduce(self) -> None:
        """`arena.gradients`, `arena.tail` and `arena.uses` hold this rank's part, weighted by its share of the samples.
        They become what the step is taken on. The tail must be the sum over the ranks, which decide by it; and where
        any rank's gradient is not finite, none may be."""

    def step(self, take: Callable[[], object] | None) -> None:
        """`take` is the optimizer's step; None where it was skipped, on all ranks."""
        if take is not None:
            take()

    def reduce_at_once(self) -> None:
        """From now on, on all ranks, gradients do not come from a backward pass in one piece: nothing may be on its way
        before `reduce`."""

    def close(self) -> None:
        """The arena is no longer trained, on any rank."""
        self.reduce_at_once()


class Synchronizer(ABC):
    """How the replicas stay one policy; one a run, made as `Class(mesh, make_compressor, **sync.kwargs)`.

    What it declares is what others may assume: they ask these, never its kind.
    """

    needs: ClassVar[frozenset[Capability]] = frozenset()
    """What the transport must be able to do."""
    acts_on_gradients: bool = True
    """Whether all it does is to agree on gradients: then every rank takes the same step, and `step` adds nothing."""
    replicas_equal: bool = True
    """Whether parameters are bit-equal on all ranks after every update; else they are after `settle`."""
    lockstep: bool = True
    """Whether all ranks make as many updates: only then may a collective follow an update."""
    same_experiment: bool = True
    """Whether N ranks learn what one rank would, to rounding."""

    def __init__(self, mesh: Mesh, make_compressor: MakeCompressor) -> None:
        self.mesh, self.make_compressor = mesh, make_compressor

    @classmethod
    def roles(cls, settings: SyncSettings, size: int) -> list[str]:
        """What each of `size` ranks does."""
        return ["worker"] * size

    @classmethod
    def refuses(cls, settings: SyncSettings, size: int) -> str | None:
        """Which of its settings `size` ranks cannot follow, as a line; None where they can."""
        return None

    @abstractmethod
    def attach(self, arena: Arena, name: str) -> ArenaSync:
        """The hooks of an arena, whose parameters are equal on all ranks now; collective. `name` tells the arenas of a
        run apart."""

    def settle(self) -> None:
        """Collective: makes one policy on all ranks of what they have."""

    @contextmanager
    def settled(self) -> Iterator[dict[str, Any]]:
        """Collective: meanwhile there is one policy on all ranks. Where replicas differ they are put back, or what is
        learned would depend on when it is evaluated and saved. Gives the `rank_state` that training resumes from."""
        if self.replicas_equal:
            self.settle()
            yield self.rank_state()
            return
        state = tree_map_only(torch.Tensor, torch.clone, self.rank_state())
        self.settle()
        try:
            yield state
        finally:
            self.load_rank_state(state)

    def check(self, parameters: torch.Tensor) -> None:
        """Raises RanksDisagree, on all ranks, where `parameters` should be equal in the midst of training and are not;
        collective."""
        if self.replicas_equal:
            check_equal(self.mesh.data, parameters)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold, equal on all ranks."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Resumes from `state`."""

    def rank_state(self) -> dict[str, Any]:
        """What a checkpoint must hold of this rank alone: also all that `settle` changes where replicas may differ."""
        return {}

    def load_rank_state(self, state: dict[str, Any] | None) -> str | None:
        """Resumes from `rank_state`; None: other ranks wrote the checkpoint. A line for the user where that loses
        something."""
        return None
