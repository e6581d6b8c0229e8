"""How ranks agree: their places, collectives, and the flat arena."""

from harness.cluster.place import Place, detect_place
from harness.distributed.arena import Arena
from harness.distributed.transports.base import Alone, Communicator
from harness.distributed.world import World

__all__ = ["Alone", "Arena", "Communicator", "Place", "World", "detect_place"]
