"""Ranks that come and go under Horovod's elastic launcher: what a rank does when their number changes.

A rank that is lost breaks the collectives of the others with an error; one that could join is told to rank 0, and the
ranks agree on it at a boundary, with a checkpoint. Both ways the attempt ends on all that are left, Horovod starts
again with the new number, and the next attempt resumes from the last checkpoint, which loads on any number of ranks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from harness.distributed.world import World, prepare_environment

Outcome = TypeVar("Outcome")


class RanksChange(Exception):
    """The ranks agreed to begin again with another number of them; raised by all alike, after a checkpoint."""


class Membership:
    """What rank 0 hears of hosts that came or went, as Horovod tells its listeners."""

    def __init__(self) -> None:
        self.changed = False

    def on_hosts_updated(self, timestamp: float, update: Any) -> None:
        self.changed = True


def keep_going(attempt: Callable[[World, Membership], Outcome]) -> Outcome:
    """Makes attempts, each with the ranks that there are then, until one comes to its end.

    An error that is not about the ranks passes through: it would come again.
    """
    prepare_environment()
    import horovod.torch as hvd
    from horovod.common.elastic import notification_manager
    from horovod.common.exceptions import HorovodInternalError, HostsUpdatedInterrupt

    while True:
        membership = Membership()
        try:
            notification_manager.register_listener(membership)
            hvd.init()
            notification_manager.init()
            world = World()  # the launcher's variables are those of this process's start
            numbers = hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size()
            names = "rank", "size", "local_rank", "local_size"
            world.place = replace(world.place, **dict(zip(names, numbers)), launcher="gloo")
            world.reason = "elastic ranks"
            world.adopt(world.start_transport("horovod"))
            world.cores = world.cores_beside_others()
            return attempt(world, membership)
        except (HorovodInternalError, HostsUpdatedInterrupt, RanksChange) as change:
            print(f"ranks change: {type(change).__name__}, process {os.getpid()} goes on", file=sys.stderr, flush=True)
        finally:
            notification_manager.remove_listener(membership)
            hvd.shutdown()
