"""A rank's slot: its share of a host's cores and, where there are GPUs enough, one of them.

A driver that runs several jobs on one host gives each of them slots of its own, by `HARNESS_SLOTS` in the environment:
`hostA:0,1/4;hostB:2,3/4` (given / of the host).
`python -m harness.cluster.slots COMMAND` confines a command that knows nothing of this to its rank's slot. Standard
library alone: it must cost nothing.

A container's or a job's CPU quota bounds how many cores can work at once, not which: slots and threads are as many as
it is worth, and a slot's cores are its share of all cores, for those beside it in other containers count theirs alike.
"""

from __future__ import annotations

import glob
import os
import socket
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from harness.cluster.machine import available_cores, usable_cores, within_quota

CONFINED = "HARNESS_CONFINED"
"""In a command that is confined to its slot already: how many slots its host has."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Slot:
    """Slot `index` of `of` equal shares of a host."""

    index: int
    of: int


def slot_of_rank(env: Mapping[str, str], host: str, local_rank: int) -> Slot | None:
    """The slot of this host's rank number `local_rank`; None where `HARNESS_SLOTS` names none.

    In a command that is confined to its slot already, all that it sees is its own: slot 0 of 1.
    """
    if CONFINED in env:
        return Slot(0, 1)
    for part in env.get("HARNESS_SLOTS", "").split(";"):
        name, _, rest = part.rpartition(":")
        indices, _, total = rest.partition("/")
        if name and total and names_this_host(name, host):
            given = [int(index) for index in indices.split(",")]
            return Slot(given[local_rank % len(given)], int(total))
    return None


def names_this_host(name: str, host: str) -> bool:
    name, host = name.lower(), host.lower()
    own_names = (host, "localhost", "127.0.0.1", socket.gethostname().lower())
    if name in own_names or name.split(".")[0] == host.split(".")[0]:
        return True
    try:
        address = socket.gethostbyname(name)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))  # only an address of this host can be bound
        return True
    except OSError:
        return False


def sharers(env: Mapping[str, str], slot: Slot | None) -> int:
    """How many slots share this host's quota, as far as this rank knows."""
    if env.get(CONFINED, "").isdigit():
        return max(1, int(env[CONFINED]))
    return slot.of if slot is not None else 1


def share_of_cores(cores: list[int], slot: Slot) -> list[int]:
    """The slot's part of `cores`; at least one, shared where there are more slots than cores."""
    first, last = slot.index * len(cores) // slot.of, (slot.index + 1) * len(cores) // slot.of
    return cores[first:last] or [cores[first]]


def confine(slot: Slot) -> None:
    """Binds this process, and all that it starts, to the slot's cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, share_of_cores(available_cores(), slot))


def visible_gpus(env: Mapping[str, str]) -> list[str]:
    """The GPUs that a process with this environment sees, as `CUDA_VISIBLE_DEVICES` names them."""
    if "CUDA_VISIBLE_DEVICES" in env:
        return visible_names(env["CUDA_VISIBLE_DEVICES"])
    if env.get("NVIDIA_VISIBLE_DEVICES") in ("none", "void"):  # of a container that was given none
        return []
    found = glob.glob("/proc/driver/nvidia/gpus/*") or glob.glob("/dev/nvidia[0-9]*")
    return [str(index) for index in range(len(found))]


def local_slots(cores_per_slot: int = 1, ranks: int = 1) -> int:
    """Slots of this machine: its GPUs where a job's ranks can have one each, else shares of the cores it may use.

    Ranks do not share a GPU: a job of more ranks than there are GPUs runs on cores.
    """
    gpus = len(visible_gpus(os.environ))
    return gpus if gpus >= ranks else max(1, usable_cores() // cores_per_slot)


def visible_names(text: str) -> list[str]:
    """The devices that CUDA sees of `0,2` or `GPU-8932f937,…`: those before the first that is none, each once."""
    names: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        if name in names or not (name.isdecimal() or name.startswith(("GPU-", "MIG-"))):
            break
        names.append(name)
    return names


def show_one_gpu(slot: Slot, env: MutableMapping[str, str]) -> None:
    """Leaves in `CUDA_VISIBLE_DEVICES` the slot's GPU alone; none where there are not enough for every slot."""
    gpus = visible_gpus(env)
    env["CUDA_VISIBLE_DEVICES"] = gpus[slot.index] if len(gpus) >= slot.of else ""


def rank_slot(env: Mapping[str, str]) -> Slot | None:
    """The slot of the rank that this environment was made for, whatever launched it."""
    names = ("OMPI_COMM_WORLD_LOCAL_RANK", "HOROVOD_LOCAL_RANK", "SLURM_LOCALID")
    local_rank = next((int(env[name]) for name in names if name in env), 0)
    return slot_of_rank(env, env.get("SLURMD_NODENAME") or socket.gethostname(), local_rank)


def confine_rank(env: MutableMapping[str, str]) -> None:
    """Confines this process to its rank's slot, and notes in `env`, its own, what that means for libraries."""
    slot = rank_slot(env)
    if slot is None:
        return
    shared_by = sharers(env, slot)
    confine(slot)
    show_one_gpu(slot, env)
    threads, cores = within_quota(len(available_cores()), shared_by), len(available_cores())
    if threads < cores:  # a library that counts cores does not see a quota
        for name in THREADS:
            env.setdefault(name, str(threads))
    env[CONFINED] = str(shared_by)


def main() -> None:
    confine_rank(os.environ)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
