"""Which transport carries a run where that is left open: the quicker one, by how long a small all-reduce takes."""

from __future__ import annotations

import statistics
from time import perf_counter

import torch

from harness.cluster.place import Place
from harness.distributed.transports import get_transport
from harness.distributed.transports.base import Capability, Communicator

PROBE_BYTES, PROBES = 64 * 1024, 15
"""What `sync.path = auto` reduces to choose a path, and how often: the arena of a small network, a few milliseconds."""
REFERENCE, OTHER = "horovod", "mpi"


def start_quicker(
    place: Place, device: torch.device, needs: frozenset[Capability] = frozenset()
) -> tuple[Communicator, str]:
    """Horovod where only it can be had; MPI where its ranks share a host, whose memory is quicker than any other way,
    or where only it can do what is needed; otherwise both are timed, one after the other, as they would carry the run.
    The group of all ranks, and why it goes by this transport; collective.

    Beside MPI's steps Horovod must not cycle (its thread polls MPI and costs most of the throughput): it is shut
    down before MPI is timed, and started again in case that it was quicker.
    """
    reference, other = get_transport(REFERENCE), get_transport(OTHER)
    if place.launcher == "mpi" and other.refuses(place, device) is None and (needs or place.local_size == place.size):
        # ranks of one launcher know these alike: nothing has to be agreed
        abilities = " and ".join(sorted(each.value for each in needs))
        reason = f"{OTHER} alone can do {abilities}" if needs else "memory that the ranks share"
        return other.start(place, device), reason
    first = reference.start(place, device)
    refusal = first.broadcast_object(other.refuses(place, device))
    if refusal is not None:
        return first, refusal
    seconds = {REFERENCE: seconds_per_reduce(first)}
    first.close()
    second = other.start(place, device)
    seconds[OTHER] = seconds_per_reduce(second)
    seconds = second.broadcast_object(seconds)
    figures = ", ".join(f"{name} {seconds[name] * 1e6:,.0f} us" for name in sorted(seconds, key=seconds.__getitem__))
    reason = f"{PROBE_BYTES // 1024} KB: {figures}"
    if seconds[OTHER] <= seconds[REFERENCE]:
        return second, reason
    second.close()
    return reference.start(place, device), reason


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
