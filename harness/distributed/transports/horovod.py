"""Horovod as a transport: over MPI, Gloo or NCCL."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

from harness.cluster.place import Place
from harness.distributed.transports.base import Capability, Communicator, Operation, Transport, Work, blocking
from harness.errors import BadInput

SERVED: list[Any] = []
"""The rendezvous that this process serves, for as long as it lives."""


class HorovodCommunicator(Communicator):
    """Horovod, over MPI, Gloo or NCCL, as its launcher set it up; `hvd.init()` has run."""

    transport = "horovod"
    # No groups: process sets that are made after hvd.init() cost every cycle of Horovod's thread another agreement.
    can = frozenset({Capability.CONCURRENT})

    def __init__(self) -> None:
        import horovod.torch as hvd

        self.hvd = hvd
        self.rank, self.size = hvd.rank(), hvd.size()
        self.members = tuple(range(self.size))
        self.operations = {"sum": hvd.Sum, "min": hvd.Min, "max": hvd.Max}

    def close(self) -> None:
        """Over MPI Horovod ends here, and can begin again. Elsewhere it goes on until the process ends, and serves
        later runs: begun again, a rank could take an address for another's that it had before."""
        if self.hvd.mpi_enabled():
            self.hvd.shutdown()

    def all_reduce_(self, tensor: torch.Tensor, op: Operation = "sum", name: str = "value") -> torch.Tensor:
        self.waiting = True
        try:
            # a name of its own for each shape: Horovod caches its answer to a name, and a new shape would undo that
            named = f"{name}.{op}.{tensor.numel()}.{tensor.dtype}"
            return self.hvd.allreduce_(tensor, op=self.operations[op], name=named)
        finally:
            self.waiting = False

    @blocking
    def broadcast_(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        return self.hvd.broadcast_(tensor, root_rank=root, name=f"broadcast.{tensor.numel()}.{tensor.dtype}")

    @blocking
    def gather_objects(self, value: Any) -> list[Any]:
        return self.hvd.allgather_object(value, name="gather")

    @blocking
    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        return self.hvd.broadcast_object(value, root_rank=root, name="broadcast_object")

    @blocking
    def all_gather_(self, out: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        gathered = self.hvd.allgather(tensor[None], name=f"all_gather.{tensor.numel()}.{tensor.dtype}")
        return out.copy_(gathered.view_as(out))

    @blocking
    def all_to_all_(self, out: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        exchanged = self.hvd.alltoall(tensor, name=f"all_to_all.{tensor.numel()}.{tensor.dtype}")
        return out.copy_(exchanged.view_as(out))

    def start_all_reduce(self, tensor: torch.Tensor, tag: int) -> Work:
        """Horovod's own thread does it."""
        handle = self.hvd.allreduce_async_(tensor, op=self.hvd.Sum, name=f"started.{tag}.{tensor.numel()}")
        return HorovodWork(self, handle)


class HorovodWork(Work):
    def __init__(self, communicator: HorovodCommunicator, handle: int) -> None:
        self.communicator, self.handle = communicator, handle

    def wait(self) -> None:
        self.communicator.waiting = True
        try:
            self.communicator.hvd.synchronize(self.handle)
        finally:
            self.communicator.waiting = False

    def done(self) -> bool:
        return bool(self.communicator.hvd.poll(self.handle))


class HorovodTransport(Transport):
    name = "horovod"

    def refuses(self, place: Place, device: torch.device) -> str | None:
        return None

    def start(self, place: Place, device: torch.device) -> Communicator:
        rendezvous: Any = None
        if running():
            return HorovodCommunicator()
        if place.launcher == "mpi":
            # imported first, mpi4py owns MPI's end: Horovod can then be shut down without finalising it
            from mpi4py import MPI  # noqa: F401
        elif place.launcher == "slurm":
            from harness.distributed.transports.srun_rendezvous import join_rendezvous

            rendezvous = join_rendezvous(os.environ)
        try:
            import horovod.torch as hvd
        except ImportError as error:
            ranks = f"{place.size} ranks"
            raise BadInput(f"{ranks} need Horovod, which cannot be imported ({error}): make install") from None
        hvd.init()
        if rendezvous is not None:
            SERVED.append(rendezvous)
        return HorovodCommunicator()


def running() -> bool:
    """Whether an earlier run of this process has left Horovod to this one."""
    loaded = sys.modules.get("horovod.torch")
    return loaded is not None and loaded.is_initialized()
