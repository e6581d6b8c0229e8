"""What carries the calls of a group of ranks: one file each, and a line in `TRANSPORTS`."""

from __future__ import annotations

from harness.distributed.transports.base import Transport
from harness.registry import named_class

TRANSPORTS = {
    "horovod": "harness.distributed.transports.horovod:HorovodTransport",
    "mpi": "harness.distributed.transports.mpi:MpiTransport",
}
"""By the name that `sync.path` gives them."""


def get_transport(name: str) -> Transport:
    """The transport of a name, or the user's own by `module:Class`; BadInput for another."""
    return named_class(name, TRANSPORTS, "sync.path", Transport)()
