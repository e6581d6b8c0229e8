"""Horovod as a transport: over MPI, Gloo or NCCL."""

from __future__ import annotations

from typing import Any

import torch

from harness.distributed.transports.base import Communicator, Operation, Reducer


class HorovodCommunicator(Communicator):
    """Horovod, over MPI, Gloo or NCCL, as its launcher set it up; `hvd.init()` has run."""

    path = "horovod"

    def __init__(self) -> None:
        import horovod.torch as hvd

        self.hvd = hvd
        self.rank, self.size = hvd.rank(), hvd.size()
        self.operations = {"sum": hvd.Sum, "min": hvd.Min, "max": hvd.Max}

    def close(self) -> None:
        self.hvd.shutdown()

    def all_reduce_(self, tensor: torch.Tensor, op: Operation = "sum", name: str = "value") -> torch.Tensor:
        # a name of its own for each shape: Horovod caches its answer to a name, and a new shape would undo that
        return self.hvd.allreduce_(tensor, op=self.operations[op], name=f"{name}.{op}.{tensor.numel()}.{tensor.dtype}")

    def broadcast_(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        return self.hvd.broadcast_(tensor, root_rank=root, name=f"broadcast.{tensor.numel()}.{tensor.dtype}")

    def gather_objects(self, value: Any) -> list[Any]:
        return self.hvd.allgather_object(value, name="gather")

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        return self.hvd.broadcast_object(value, root_rank=root, name="broadcast_object")


class HorovodReducer(Reducer):
    """Horovod's own thread does it."""

    def __init__(self, communicator: HorovodCommunicator) -> None:
        self.hvd = communicator.hvd
        self.handles: list[int] = []

    def start(self, part: torch.Tensor, number: int) -> None:
        self.handles.append(self.hvd.allreduce_async_(part, op=self.hvd.Sum, name=f"gradients.{number}.{part.numel()}"))

    def wait(self) -> None:
        handles, self.handles = self.handles, []
        for handle in handles:
            self.hvd.synchronize(handle)
