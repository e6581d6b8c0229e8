"""A rank's slot: its share of a host's cores and, where there are GPUs, one of them.

A driver that runs several jobs on one host gives each of them slots of its own, by `HARNESS_SLOTS` in the environment:
`hostA:0,1/4;hostB:2,3/4` (the slots given / the slots that the host has). `python -m harness.slots COMMAND` confines a
command that knows nothing of this to its rank's slot. Standard library alone: it must cost nothing.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """Slot `index` of `of` equal shares of a host."""

    index: int
    of: int


def own_slot(env: Mapping[str, str], host: str, local_rank: int) -> Slot | None:
    """The slot of this host's rank number `local_rank`; None where `HARNESS_SLOTS` names none."""
    for part in env.get("HARNESS_SLOTS", "").split(";"):
        name, _, rest = part.rpartition(":")
        indices, _, total = rest.partition("/")
        if name and total and names_this_host(name, host):
            given = [int(index) for index in indices.split(",")]
            return Slot(given[local_rank % len(given)], int(total))
    return None


def names_this_host(name: str, host: str) -> bool:
    if name in (host, "localhost", "127.0.0.1", socket.gethostname()) or name.split(".")[0] == host.split(".")[0]:
        return True
    try:
        address = socket.gethostbyname(name)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))  # only an address of this host can be bound
        return True
    except OSError:
        return False


def share_of_cores(cores: list[int], slot: Slot) -> list[int]:
    """The slot's part of `cores`; at least one, shared where there are more slots than cores."""
    first, last = slot.index * len(cores) // slot.of, (slot.index + 1) * len(cores) // slot.of
    return cores[first:last] or [cores[slot.index % len(cores)]]


def confine(slot: Slot) -> None:
    """Binds this process, and all that it starts, to the slot's cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, share_of_cores(sorted(os.sched_getaffinity(0)), slot))


def show_one_gpu(slot: Slot, env: MutableMapping[str, str]) -> None:
    """Leaves in `CUDA_VISIBLE_DEVICES` the slot's GPU alone, of those that were visible; no GPU is no error."""
    visible = env.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(index) for index in range(slot.of)]
    env["CUDA_VISIBLE_DEVICES"] = devices[slot.index % len(devices)]


def main() -> None:
    env = os.environ
    names = ("OMPI_COMM_WORLD_LOCAL_RANK", "HOROVOD_LOCAL_RANK", "SLURM_LOCALID")
    local_rank = next((int(env[name]) for name in names if name in env), 0)
    slot = own_slot(env, env.get("SLURMD_NODENAME") or socket.gethostname(), local_rank)
    if slot is not None:
        confine(slot)
        show_one_gpu(slot, env)
        env["HARNESS_SLOTS"] = "localhost:0/1"  # what is left is all of it: the command must not take its share again
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
