"""mpi4py as a transport: in place on CPU tensors."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

import numpy as np
import torch

from harness.distributed.transports.base import Communicator, Operation, Reducer
from harness.distributed.transports.shared_memory import LARGEST, SharedMemory
from harness.distributed.transports.shared_memory import serves as shared_memory_serves

REST = 300e-6
"""Seconds between two looks at a reduce under way while the backward pass runs, which needs the core: MPI moves nothing
by itself, and would spin where it waits. 0.1 and 0.3 ms hid the same, 1 ms a little less."""

MOST_AT_ONCE = 4 * 1024 * 1024
"""Numbers that MPI reduces in one call. Its algorithms take memory for as many, and above 32 MB the system gives and
takes back that memory at every call: 100 MB between two ranks of a host take 57 ms at once, 17 ms in parts of 16 MB, 13
in parts of 4 MB; between hosts small parts cost time, for the wire rests between them."""


class MpiCommunicator(Communicator):
    """mpi4py, in place on the tensor's own memory; CPU tensors alone. Small ones of ranks that share a host go through
    memory that they share."""

    path = "mpi"

    def __init__(self, world: Any) -> None:
        from mpi4py import MPI

        self.mpi, self.world = MPI, world
        self.rank, self.size = world.Get_rank(), world.Get_size()
        self.operations = {"sum": MPI.SUM, "min": MPI.MIN, "max": MPI.MAX}
        self.shared = SharedMemory(world) if shared_memory_serves(world) else None
        """What carries small reduces where all ranks share a host."""

    def close(self) -> None:
        if self.shared is not None:
            self.shared.close()
            self.shared = None

    def all_reduce_(self, tensor: torch.Tensor, op: Operation = "sum", name: str = "value") -> torch.Tensor:
        if self.shared is not None and tensor.nbytes <= LARGEST:
            self.shared.all_reduce_(memory(tensor), op)
            return tensor
        if tensor.numel() <= MOST_AT_ONCE:
            self.world.Allreduce(self.mpi.IN_PLACE, memory(tensor), op=self.operations[op])
            return tensor
        flat = memory(tensor).reshape(-1)
        for start in range(0, len(flat), MOST_AT_ONCE):
            self.world.Allreduce(self.mpi.IN_PLACE, flat[start : start + MOST_AT_ONCE], op=self.operations[op])
        return tensor

    def broadcast_(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        self.world.Bcast(memory(tensor), root=root)
        return tensor

    def gather_objects(self, value: Any) -> list[Any]:
        return self.world.allgather(value)

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        return self.world.bcast(value, root=root)


def memory(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's own memory as MPI can take it; a tensor elsewhere, or with gaps, is an error rather than a copy."""
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError(f"MPI reduces contiguous CPU tensors in place, got {tensor.device}, strides {tensor.stride()}")
    return tensor.detach().numpy()


class MpiReducer(Reducer):
    """A thread that calls MPI, on a communicator of its own: other collectives may go on beside it."""

    def __init__(self, communicator: MpiCommunicator) -> None:
        self.mpi = communicator.mpi
        self.world = communicator.world.Dup()
        self.parts: queue.Queue[torch.Tensor | None] = queue.Queue()
        self.awaited = False
        self.problem: Exception | None = None
        self.thread = threading.Thread(target=self._work, name="reducer", daemon=True)
        self.thread.start()

    def start(self, part: torch.Tensor, number: int) -> None:
        self.awaited = False
        self.parts.put(part)

    def wait(self) -> None:
        self.awaited = True
        self.parts.join()
        if self.problem is not None:
            raise RuntimeError(f"the reduce beside the backward pass failed: {self.problem}") from self.problem

    def close(self) -> None:
        self.parts.put(None)
        self.thread.join()
        self.world.Free()

    def _work(self) -> None:
        while (part := self.parts.get()) is not None:
            try:
                if self.problem is None:
                    self._sum(memory(part))
            except Exception as error:
                self.problem = error
            finally:
                self.parts.task_done()

    def _sum(self, part: Any) -> None:
        for start in range(0, len(part), MOST_AT_ONCE):
            request = self.world.Iallreduce(self.mpi.IN_PLACE, part[start : start + MOST_AT_ONCE])
            while not request.Test():
                if self.awaited:
                    request.Wait()
                    break
                time.sleep(REST)
