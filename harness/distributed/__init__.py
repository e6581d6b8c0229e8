"""The ranks: their groups, what carries their calls, the flat arena, and how replicas stay one policy."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.cluster.place import Place, detect_place
    from harness.distributed.arena import Arena
    from harness.distributed.transports.base import Alone, Communicator
    from harness.distributed.world import World

__all__ = ["Alone", "Arena", "Communicator", "Place", "World", "detect_place"]

HOMES = {
    "Alone": "harness.distributed.transports.base",
    "Arena": "harness.distributed.arena",
    "Communicator": "harness.distributed.transports.base",
    "Place": "harness.cluster.place",
    "World": "harness.distributed.world",
    "detect_place": "harness.cluster.place",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: a script that only reports needs no torch."""
    if name not in HOMES:
        raise AttributeError(f"module 'harness.distributed' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)
