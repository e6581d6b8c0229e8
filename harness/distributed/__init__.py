"""How ranks agree: their places, collectives, and the flat arena."""

from harness.distributed.arena import Arena
from harness.distributed.collectives import Alone, Collectives
from harness.distributed.world import Place, World, detect_place

__all__ = ["Alone", "Arena", "Collectives", "Place", "World", "detect_place"]
