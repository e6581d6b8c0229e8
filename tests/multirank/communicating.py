"""A rank that makes every call of its communicator, with those of its neighbours late, and gives what came of them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness.distributed.transports.base import Capability, Communicator
from tests.multirank.launch import FOLDER, give, join

PATIENCE = 20.0
"""Seconds for which rank 1 waits at most until rank 0 is seen to wait for it."""


def calls(group: Communicator) -> dict[str, Callable[[], Any]]:
    """Each returns what is equal on all ranks."""
    own = torch.full((4,), float(group.rank + 1))
    halves = torch.arange(2.0 * group.size) * (group.rank + 1)

    def started() -> torch.Tensor:
        tensor = own.clone()
        group.start_all_reduce(tensor, 3).wait()
        return tensor

    def scattered() -> torch.Tensor:
        part = group.reduce_scatter_(torch.empty(2), halves.clone())
        return group.all_gather_(torch.empty(group.size, 2), part)

    def exchanged() -> torch.Tensor:
        rows = 10.0 * group.rank + torch.arange(float(group.size))[:, None]
        return group.all_to_all_(torch.empty(group.size, 1), rows)[:, 0] - group.rank

    return {
        "all_reduce_": lambda: group.all_reduce_(own.clone()),
        "large all_reduce_": lambda: group.all_reduce_(torch.ones(300_000))[:3],
        "broadcast_": lambda: group.broadcast_(own.clone(), root=1),
        "gather_objects": lambda: group.gather_objects(group.rank),
        "broadcast_object": lambda: group.broadcast_object("from 1" if group.rank == 1 else None, root=1),
        "agree": lambda: group.agree({"most": float(group.rank)}, "max"),
        "reduce_scatter_": scattered,
        "all_to_all_": exchanged,
        "start_all_reduce": started,
    }


class Watched:
    """Looks at `is_waiting` from another thread, as the heartbeat does."""

    def __init__(self, world: Communicator, seen: Path) -> None:
        """seen: the file that is there once this rank was seen to wait five times in a row."""
        self.world, self.seen, self.over = world, seen, threading.Event()
        self.thread = threading.Thread(target=self.look)

    def look(self) -> None:
        in_a_row = 0
        while not self.over.wait(0.02):
            in_a_row = in_a_row + 1 if self.world.is_waiting() else 0
            if in_a_row == 5:
                self.seen.touch()

    def __enter__(self) -> Watched:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


def waited(label: str, world: Communicator, group: Communicator) -> dict[str, tuple[bool, bool, Any]]:
    """Of each call of `group`: whether rank 0 was seen to wait in it before rank 1 came, whether this rank was where it
    did not (rank 1 before the call, both after it), and the result."""
    found = {}
    for name, call in calls(group).items():
        seen = Path(os.environ[FOLDER]) / f"{label} {name}"
        wrongly = False
        group.barrier()
        if group.rank == 1:
            deadline = time.monotonic() + PATIENCE
            while not seen.exists() and time.monotonic() < deadline:
                wrongly |= world.is_waiting()
                time.sleep(0.01)
            was_seen = seen.exists()
            result = call()
        else:
            with Watched(world, seen):
                result = call()
            was_seen = seen.exists()
        found[name] = was_seen, wrongly or world.is_waiting(), result
    return found


def messages(group: Communicator) -> Any:
    """Rank 0 hears from rank 1, which it has asked for with a probe, and answers."""
    if Capability.POINT_TO_POINT not in group.can:
        return None
    out = torch.zeros(3)
    if group.rank == 1:
        group.send(torch.tensor([1.0, 2.0, 3.0]), to=0, tag=5).wait()
        group.receive(out, source=0, tag=6).wait()
    elif group.rank == 0:
        while (source := group.probe(5)) is None:
            time.sleep(0.01)
        work = group.receive(out, source, 5)
        work.wait()
        assert work.done() and group.probe(5) is None
        group.send(out * 2, to=source, tag=6).wait()
    return out.tolist()


def groups(world: Communicator) -> Any:
    """All ranks on another channel, in the midst of a call of this one; the last rank apart from the others."""
    twin = world.duplicate("twin")
    found = [twin is world, twin.members, twin.name]
    if Capability.GROUPS not in world.can:
        return found, None
    under_way = world.start_all_reduce(torch.ones(4), 0)
    twin.barrier()
    under_way.wait()
    part = world.split(int(world.rank == world.size - 1), "part")
    total = part.all_reduce_(torch.ones(1)).item()
    return found, (part.name, part.members, part.rank, total)


if __name__ == "__main__":
    world, communicator = join()
    found: dict[str, Any] = {
        "world": waited("world", communicator, communicator),
        "control": waited("control", communicator, world.mesh.control),
        "messages": messages(communicator),
        "groups": groups(communicator),
        "can": communicator.can,
        "mesh": (world.mesh.share(5), world.mesh.speaks, world.mesh.model.members, world.mesh.data is communicator),
    }
    give(found)
    world.stop()
