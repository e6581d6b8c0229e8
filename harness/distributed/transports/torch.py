"""What the ranks of a script agree by where it has initialised `torch.distributed`."""

from __future__ import annotations

from typing import Any

import torch

from harness.distributed.transports.base import Communicator, Operation, blocking


class TorchDistributedCommunicator(Communicator):
    """`torch.distributed`, as the script has initialised it."""

    transport = "torch"

    def __init__(self) -> None:
        import torch.distributed

        self.dist = torch.distributed
        self.rank, self.size = self.dist.get_rank(), self.dist.get_world_size()
        self.members = tuple(range(self.size))
        self.device = "cuda" if self.dist.get_backend() == "nccl" else "cpu"
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
