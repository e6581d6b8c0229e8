"""How long a small all-reduce takes, by which a transport is chosen."""

from __future__ import annotations

import statistics
from time import perf_counter

import torch

from harness.distributed.transports.base import Communicator

PROBE_BYTES, PROBES = 64 * 1024, 15
"""What `sync.path = auto` reduces to choose a path, and how often: the arena of a small network, a few milliseconds."""


def seconds_per_reduce(communicator: Communicator) -> float:
    """The lower quartile of PROBES reduces of PROBE_BYTES, after a few that set up the connections: what other work on
    the machine adds to some of them is not the path's."""
    buffer = torch.zeros(PROBE_BYTES // 4)
    seconds = []
    for _ in range(PROBES + 5):
        began = perf_counter()
        communicator.all_reduce_(buffer, name="probe")
        seconds.append(perf_counter() - began)
    return statistics.quantiles(seconds[5:], n=4)[0]
