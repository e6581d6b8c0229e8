"""`torch.distributed`: what the ranks of a script agree by that has initialised it, and what benches compare with; no
run uses it."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

import torch

from harness.cluster.openmpi import prepare_environment
from harness.cluster.place import Place
from harness.cluster.slots import names_this_host
from harness.distributed.transports.base import Communicator, Operation, blocking
from harness.distributed.transports.srun_rendezvous import interface_towards
from harness.errors import BadInput


class TorchDistributedCommunicator(Communicator):
    """`torch.distributed`, as it was initialised."""

    transport = "torch"

    def __init__(self, device: torch.device | None = None) -> None:
        """`device`: where its tensors must be; None: as its backend has it."""
        import torch.distributed

        self.dist = torch.distributed
        self.rank, self.size = self.dist.get_rank(), self.dist.get_world_size()
        self.members = tuple(range(self.size))
        self.device = device or torch.device("cuda" if self.dist.get_backend() == "nccl" else "cpu")
        self.operations = {
            "sum": self.dist.ReduceOp.SUM,
            "min": self.dist.ReduceOp.MIN,
            "max": self.dist.ReduceOp.MAX,
        }

    @blocking
    def all_reduce_(self, tensor: torch.Tensor, op: Operation = "sum", name: str = "value") -> torch.Tensor:
        there = tensor.to(self.device)
        self.dist.all_reduce(there, self.operations[op])
        return tensor if there is tensor else tensor.copy_(there)

    @blocking
    def broadcast_(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        there = tensor.to(self.device)
        self.dist.broadcast(there, root)
        return tensor if there is tensor else tensor.copy_(there)

    @blocking
    def gather_objects(self, value: Any) -> list[Any]:
        gathered: list[Any] = [None] * self.size
        self.dist.all_gather_object(gathered, value)
        return gathered

    @blocking
    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        held = [value]
        self.dist.broadcast_object_list(held, root)
        return held[0]


class OwnGroup(TorchDistributedCommunicator):
    """The same where this package has initialised it, and ends it."""

    def close(self) -> None:
        self.dist.destroy_process_group()


def start_group(place: Place, device: torch.device, backend: str, hosts: Sequence[str]) -> Communicator:
    """Initialises it on ranks of an MPI launcher, by `gloo` or `nccl`. `hosts`: the names by which the ranks'
    hosts reach each other."""
    import torch.distributed as dist

    if backend == "nccl" and device.type != "cuda":
        raise BadInput("NCCL needs a GPU for each rank")
    store = meet(place, hosts)
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size)
    return OwnGroup(device if backend == "nccl" else torch.device("cpu"))


def meet(place: Place, hosts: Sequence[str]) -> Any:
    """The ranks' store. Rank 0 serves it on a port that is free; the others learn it by MPI, which is over before
    anything is timed."""
    from torch.distributed import TCPStore

    prepare_environment()
    from mpi4py import MPI

    store, own = None, next((name for name in hosts if names_this_host(name, place.host)), "localhost")
    if place.rank == 0:
        store = TCPStore(own, 0, place.size, is_master=True, wait_for_workers=False)
    address, port = MPI.COMM_WORLD.bcast((own, store.port if store is not None else 0))
    MPI.Finalize()
    if place.local_size < place.size:  # a host's own name need not be one by which others reach it
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface_towards(socket.gethostbyname(address)))
    return store if store is not None else TCPStore(address, port, place.size, is_master=False)
