"""This process's place among the ranks, from the variables of whatever launched it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from time import sleep

from harness.cluster.slurm import expand_tasks_per_node
from harness.errors import BadInput


@dataclass(frozen=True)
class Place:
    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    launcher: str
    """`none`, `mpi` (mpirun, horovodrun --mpi), `gloo` (horovodrun --gloo) or `slurm` (srun)."""


def host_name(env: Mapping[str, str] | None = None) -> str:
    """Slurm's name of this node, else the machine's: several nodes of a test cluster share a machine."""
    return (os.environ if env is None else env).get("SLURMD_NODENAME") or socket.gethostname()


def detect_place(env: Mapping[str, str]) -> Place:
    """Where the launcher put this process, from its variables alone.

    The order matters: mpirun inside a Slurm allocation starts its daemons by srun, so its ranks carry Slurm's variables
    too; and a batch script carries Slurm's rank variables without being a rank (it has no step).
    """
    host = host_name(env)

    def number(name: str, default: int = 0) -> int:
        return int(env.get(name, default))

    if "OMPI_COMM_WORLD_SIZE" in env:
        local = number("OMPI_COMM_WORLD_LOCAL_RANK"), number("OMPI_COMM_WORLD_LOCAL_SIZE", 1)
        return Place(number("OMPI_COMM_WORLD_RANK"), number("OMPI_COMM_WORLD_SIZE"), *local, host, "mpi")
    if "HOROVOD_SIZE" in env and "HOROVOD_RANK" in env:
        local = number("HOROVOD_LOCAL_RANK"), number("HOROVOD_LOCAL_SIZE", 1)
        return Place(number("HOROVOD_RANK"), number("HOROVOD_SIZE"), *local, host, "gloo")
    if "SLURM_PROCID" in env and env.get("SLURM_STEP_ID", "").isdigit() and number("SLURM_STEP_NUM_TASKS", 1) > 1:
        tasks = expand_tasks_per_node(env.get("SLURM_STEP_TASKS_PER_NODE", "1"))
        local = number("SLURM_LOCALID"), tasks[number("SLURM_NODEID")]
        return Place(number("SLURM_PROCID"), number("SLURM_STEP_NUM_TASKS"), *local, host, "slurm")
    if "PMI_SIZE" in env and "PMI_RANK" in env:  # MPICH and its relatives
        local = number("MPI_LOCALRANKID"), number("MPI_LOCALNRANKS", 1)
        return Place(number("PMI_RANK"), number("PMI_SIZE"), *local, host, "mpi")
    return Place(0, 1, 0, 1, host, "none")


def let_rank_0_speak_first(place: Place) -> None:
    """All ranks find most bad input alike, and one line is enough: rank 0's exit ends the others while they wait here.

    What this rank alone found (a package that its host lacks) is still told, after a moment.
    """
    if place.rank != 0:
        sleep(3.0)


OTHER_LAUNCHERS = {"WORLD_SIZE": "torchrun", "MV2_COMM_WORLD_SIZE": "MVAPICH's mpirun", "PMIX_RANK": "a PMIx launcher"}


def refuse_unknown_launcher(env: Mapping[str, str], place: Place) -> None:
    """BadInput for one of N processes that would each believe to be alone, and all write into one directory."""
    for name, launcher in OTHER_LAUNCHERS.items():
        several = name in env and (name == "PMIX_RANK" or env[name].isdigit() and int(env[name]) > 1)
        if place.size == 1 and place.launcher == "none" and several:
            raise BadInput(
                f"{name}={env[name]} says that {launcher} started this process as one of several, but it does not know "
                "its place among them: start ranks by horovodrun, mpirun, srun or --ranks N"
            )
