"""Which ranks share what: groups that are asked for by name, never worked out from a rank."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.distributed.share import Share, split_evenly
from harness.distributed.transports.base import Alone, Communicator


@dataclass(frozen=True)
class Mesh:
    """The groups that this rank is in."""

    world: Communicator
    """All ranks."""
    control: Communicator
    """All ranks, for decisions: no gradient waits for them, nor they for one, where the transport has channels."""
    data: Communicator
    """The ranks that hold the same part of the policy, each with samples of its own: gradients are summed over them."""
    model: Communicator
    """The ranks that hold one replica of the policy between them."""
    role: str = "worker"
    """What this rank does, as the synchronizer's `roles` has it."""

    def share(self, total: int) -> Share:
        """What of `total` environments or samples is this replica's."""
        return split_evenly(total, self.data.rank, self.data.size)

    @property
    def speaks(self) -> bool:
        """Whether this is the one rank that writes and prints."""
        return self.world.rank == 0


def make_mesh(world: Communicator) -> Mesh:
    """A mesh of one axis, data: every rank holds the whole policy. Collective."""
    return replace(mesh_on_one_channel(world), control=world.duplicate("control"))


def mesh_on_one_channel(world: Communicator) -> Mesh:
    """The same where gradients and decisions may share a channel."""
    return Mesh(world, world, world, Alone("model", (world.rank,)))
