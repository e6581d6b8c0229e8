"""One start of a run: what is known of it before anything is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.cluster.handshake import Handshake
from harness.distributed.transports.base import Communicator
from harness.distributed.world import World
from harness.lifecycle.elastic import Membership
from harness.lifecycle.signals import StopRequests
from harness.schema import RunConfig


@dataclass(frozen=True)
class Attempt:
    """A run's config, on the ranks that there are; an elastic run makes one whenever their number changes."""

    config: RunConfig
    run_dir: Path
    resume: str
    """`auto` resumes from the directory's last checkpoint, `never` starts over, a path names a checkpoint."""
    world: World
    requests: StopRequests
    handshake: Handshake = Handshake()
    spent: float = 0.0
    """Seconds of `run.max_minutes` that are over already, in attempts since the user's start."""
    membership: Membership | None = None
    """Where ranks come and go."""

    @property
    def communicator(self) -> Communicator:
        return self.world.communicator

    @property
    def rank(self) -> int:
        return self.world.place.rank
