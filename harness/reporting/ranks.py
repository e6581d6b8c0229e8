"""The ranks of a script that knows nothing of this package: found where it has started them, else started here."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

from harness.distributed.collectives import Alone, Collectives, HorovodCollectives, MpiCollectives, Operation
from harness.distributed.world import detect_place, prepare_environment
from harness.errors import BadInput


class TorchDistributed(Collectives):
    """`torch.distributed`, as the script has initialised it."""

    path = "torch"

    def __init__(self) -> None:
        import torch.distributed

        self.dist = torch.distributed
        self.rank, self.size = self.dist.get_rank(), self.dist.get_world_size()
        self.device = "cuda" if self.dist.get_backend() == "nccl" else "cpu"
        self.operations = {
            "sum": self.dist.ReduceOp.SUM,
            "min": self.dist.ReduceOp.MIN,
            "max": self.dist.ReduceOp.MAX,
        }

    def all_reduce_(self, tensor: torch.Tensor, op: Operation = "sum", name: str = "value") -> torch.Tensor:
        there = tensor.to(self.device)
        self.dist.all_reduce(there, self.operations[op])
        return tensor if there is tensor else tensor.copy_(there)

    def broadcast_(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        there = tensor.to(self.device)
        self.dist.broadcast(there, root)
        return tensor if there is tensor else tensor.copy_(there)

    def gather_objects(self, value: Any) -> list[Any]:
        gathered: list[Any] = [None] * self.size
        self.dist.all_gather_object(gathered, value)
        return gathered

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        held = [value]
        self.dist.broadcast_object_list(held, root)
        return held[0]


def running_ranks() -> Collectives | None:
    """What the script itself has started: Horovod, MPI by mpi4py, torch.distributed; None where it has started none."""
    hvd = sys.modules.get("horovod.torch")
    if hvd is not None and hvd.is_initialized():
        return HorovodCollectives()
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        return MpiCollectives(mpi.COMM_WORLD)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return TorchDistributed()
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


def find_ranks() -> tuple[Collectives, bool]:
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
        return Alone(), False
    prepare_environment()
    if place.launcher == "mpi":
        try:
            from mpi4py import MPI

            return MpiCollectives(MPI.COMM_WORLD), True
        except ImportError:
            pass  # a Horovod of the cluster's own, without mpi4py
    if place.launcher == "slurm":
        from harness.distributed.slurm_rendezvous import join_rendezvous

        join_rendezvous(os.environ)
    import horovod.torch as hvd

    hvd.init()
    return HorovodCollectives(), True


def started_by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1
