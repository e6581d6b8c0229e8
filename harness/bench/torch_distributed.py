"""torch.distributed as `Communicator`, to be measured beside the paths that runs take; no run uses it."""

from __future__ import annotations

import os
import socket
from typing import Any

import torch
import torch.distributed as dist

from harness.cluster.slots import names_this_host
from harness.distributed.transports.base import Communicator, Operation
from harness.distributed.transports.srun_rendezvous import interface_towards
from harness.distributed.world import World, prepare_environment
from harness.errors import BadInput


class TorchCommunicator(Communicator):
    """`backend` is `gloo` or `nccl`; on ranks of an MPI launcher, whose hosts reach each other by `hosts`."""

    def __init__(self, world: World, backend: str, hosts: list[str]) -> None:
        self.transport, self.rank, self.size = f"torch-{backend}", world.place.rank, world.place.size
        if backend == "nccl" and world.device.type != "cuda":
            raise BadInput("NCCL needs a GPU for each rank")
        store = self._store(world, hosts)
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size)
        self.operations = {"sum": dist.ReduceOp.SUM, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}
        self.device = world.device if backend == "nccl" else torch.device("cpu")

    def _store(self, world: World, hosts: list[str]) -> dist.Store:
        """Rank 0 serves on a port that is free; the others learn it by MPI, which is over before anything is timed."""
        prepare_environment()
        from mpi4py import MPI

        store, own = None, next((name for name in hosts if names_this_host(name, world.place.host)), "localhost")
        if self.rank == 0:
            store = dist.TCPStore(own, 0, self.size, is_master=True, wait_for_workers=False)
        address, port = MPI.COMM_WORLD.bcast((own, store.port if store is not None else 0))
        MPI.Finalize()
        if world.place.local_size < self.size:  # a host's own name need not be one by which others reach it
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface_towards(socket.gethostbyname(address)))
        return store if store is not None else dist.TCPStore(address, port, self.size, is_master=False)

    def all_reduce_(self, tensor: torch.Tensor, op: Operation = "sum", name: str = "value") -> torch.Tensor:
        dist.all_reduce(tensor, self.operations[op])
        return tensor

    def broadcast_(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        dist.broadcast(tensor, root)
        return tensor

    def gather_objects(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        values = [value]
        dist.broadcast_object_list(values, root)
        return values[0]

    def barrier(self) -> None:
        dist.barrier()

    def stop(self) -> None:
        dist.destroy_process_group()
