"""The ranks of a script that knows nothing of this package: found where it has started them, else started here.

torch is imported where ranks agree by Horovod or torch alone: a script need not use it, and it takes seconds.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from harness.cluster.openmpi import ALLOWED_EXIT, prepare_environment
from harness.cluster.place import detect_place
from harness.errors import BadInput
from harness.reporting.trial import Ranks

LEAVE_SECONDS = 3.0


class OneRank:
    """A rank that has nobody to agree with."""

    transport = "alone"
    rank = 0
    size = 1

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        return value


class MpiRanks:
    """mpi4py, as far as a script's ranks need it. Nothing is set up, so that one rank alone may ask for its place."""

    transport = "mpi"

    def __init__(self, communicator: Any) -> None:
        self.communicator = communicator
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        return self.communicator.bcast(value, root=root)


def horovod_ranks() -> Ranks:
    from harness.distributed.transports.horovod import HorovodCommunicator

    return HorovodCommunicator()


def running_ranks() -> Ranks | None:
    """What the script itself has started: Horovod, MPI by mpi4py, torch.distributed; None where it has started none."""
    hvd = sys.modules.get("horovod.torch")
    if hvd is not None and hvd.is_initialized():
        return horovod_ranks()
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        return MpiRanks(mpi.COMM_WORLD)
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        from harness.distributed.transports.torch import TorchDistributedCommunicator

        return TorchDistributedCommunicator()
    return None


def rank_and_size() -> tuple[int, int]:
    """This process among its ranks, without starting anything: rank 0 alone may ask."""
    running = running_ranks()
    if running is not None:
        return running.rank, running.size
    place = detect_place(os.environ)
    if place.size == 1 and started_by_torchrun():
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return place.rank, place.size


def find_ranks() -> tuple[Ranks, bool]:
    """What the ranks agree by, and whether it was started here. A collective where it has to be started.

    Under mpirun that is mpi4py: unlike Horovod it costs the script nothing between calls. Under horovodrun with Gloo,
    and under srun, it is Horovod.
    """
    running = running_ranks()
    if running is not None:
        return running, False
    place = detect_place(os.environ)
    if place.size == 1:
        if started_by_torchrun():
            raise BadInput("should_stop() asks all ranks: call torch.distributed.init_process_group() before it")
        return OneRank(), False
    prepare_environment()
    if place.launcher == "mpi":
        try:
            if os.environ.get(ALLOWED_EXIT) == "1":
                # The script does not know that MPI runs: a rank that leaves by sys.exit would wait at MPI's end, for
                # ranks that wait for it.
                import mpi4py

                mpi4py.rc.finalize = False
            from mpi4py import MPI

            return MpiRanks(MPI.COMM_WORLD), True
        except ImportError:
            pass  # a Horovod of the cluster's own, without mpi4py
    if place.launcher == "slurm":
        from harness.distributed.transports.srun_rendezvous import join_rendezvous

        join_rendezvous(os.environ)
    import horovod.torch as hvd

    hvd.init()
    return horovod_ranks(), True


def leave_mpi() -> None:
    """MPI's end where it was started here and a rank may go without it: once all ranks are at theirs.

    A rank that leaves by `sys.exit("no data")` looks like one that is done, and the others may be waiting for it: it
    waits for them for a moment alone, and then its exit code ends the job.
    """
    from mpi4py import MPI, rc

    if rc.finalize is not False or not MPI.Is_initialized() or MPI.Is_finalized():
        return
    all_here, until = MPI.COMM_WORLD.Ibarrier(), time.monotonic() + LEAVE_SECONDS
    while not all_here.Test():
        if time.monotonic() > until:
            return
        time.sleep(0.01)
    MPI.Finalize()


def started_by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1
