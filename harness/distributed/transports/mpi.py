"""mpi4py as a transport: in place on CPU tensors."""

from __future__ import annotations

import queue
import sys
import threading
import time
from typing import Any

import numpy as np
import torch

from harness.cluster.place import Place
from harness.distributed.transports.base import Alone, Capability, Communicator, Operation, Transport, Work, blocking
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

    transport = "mpi"

    def __init__(
        self, comm: Any, name: str = "world", members: tuple[int, ...] | None = None, one_host: bool | None = None
    ) -> None:
        """`comm`: mpi4py's. `one_host`: whether its ranks are known to share a host; None: they are asked."""
        from mpi4py import MPI

        self.mpi, self.comm, self.name = MPI, comm, name
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.members = tuple(range(self.size)) if members is None else members
        can = {Capability.POINT_TO_POINT, Capability.GROUPS}
        if MPI.Query_thread() == MPI.THREAD_MULTIPLE:  # two threads may call it at once
            can.add(Capability.CONCURRENT)
        self.can = frozenset(can)
        self.operations = {"sum": MPI.SUM, "min": MPI.MIN, "max": MPI.MAX}
        shares = shared_memory_serves(comm) if one_host is None else one_host
        self.shared = SharedMemory(comm) if shares else None
        """What carries small reduces where all ranks share a host."""
        self.channel: Channel | None = None
        """What carries those that go on beside other work, once there was one."""

    def close(self) -> None:
        for each in self.derived:
            each.close()
        self.derived = ()
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        if self.shared is not None:
            self.shared.close()
            self.shared = None
        if self.comm not in (self.mpi.COMM_WORLD, self.mpi.COMM_NULL):
            self.comm.Free()

    def all_reduce_(self, tensor: torch.Tensor, op: Operation = "sum", name: str = "value") -> torch.Tensor:
        self.waiting = True
        try:
            if self.shared is not None and tensor.nbytes <= LARGEST:
                self.shared.all_reduce_(memory(tensor), op)
                return tensor
            if tensor.numel() <= MOST_AT_ONCE:
                self.comm.Allreduce(self.mpi.IN_PLACE, memory(tensor), op=self.operations[op])
                return tensor
            flat = memory(tensor).reshape(-1)
            for start in range(0, len(flat), MOST_AT_ONCE):
                part = flat[start : start + MOST_AT_ONCE]
                self.comm.Allreduce(self.mpi.IN_PLACE, part, op=self.operations[op])
            return tensor
        finally:
            self.waiting = False

    def piece_of(self, size: int) -> int | None:
        return None if self.shared is not None and size <= LARGEST else min(size, 4 * MOST_AT_ONCE)

    @blocking
    def broadcast_(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        self.comm.Bcast(memory(tensor), root=root)
        return tensor

    @blocking
    def gather_objects(self, value: Any) -> list[Any]:
        return self.comm.allgather(value)

    @blocking
    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        return self.comm.bcast(value, root=root)

    @blocking
    def reduce_scatter_(self, out: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        self.comm.Reduce_scatter_block(memory(tensor), memory(out), op=self.mpi.SUM)
        return out

    @blocking
    def all_gather_(self, out: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        if self.shared is not None and out.nbytes <= LARGEST:
            super().all_gather_(
                out.view(torch.uint8), tensor.view(torch.uint8)
            )  # as bytes: the sum with zeros is exact
        else:
            self.comm.Allgather(memory(tensor), memory(out))
        return out

    @blocking
    def all_to_all_(self, out: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        self.comm.Alltoall(memory(tensor), memory(out))
        return out

    def start_all_reduce(self, tensor: torch.Tensor, tag: int) -> Work:
        """A thread calls MPI for it. The first call is a collective, which makes the thread's channel."""
        if Capability.CONCURRENT not in self.can:
            return super().start_all_reduce(tensor, tag)
        if self.channel is None:
            self.channel = self._open_channel()
        return ChannelWork(self, self.channel, self.channel.start(tensor))

    @blocking
    def _open_channel(self) -> Channel:
        return Channel(self.mpi, self.comm.Dup())

    def send(self, tensor: torch.Tensor, to: int, tag: int) -> Work:
        return RequestWork(self, self.comm.Isend(memory(tensor), dest=to, tag=tag))

    def receive(self, out: torch.Tensor, source: int, tag: int) -> Work:
        return RequestWork(self, self.comm.Irecv(memory(out), source=source, tag=tag))

    def probe(self, tag: int) -> int | None:
        status = self.mpi.Status()
        return status.Get_source() if self.comm.Iprobe(self.mpi.ANY_SOURCE, tag, status) else None

    @blocking
    def split(self, color: int, name: str) -> Communicator:
        colors = self.comm.allgather(color)
        members = tuple(member for member, theirs in zip(self.members, colors) if theirs == color)
        comm = self.comm.Split(color, self.rank)
        if len(members) == 1:
            comm.Free()
            return Alone(name, members)
        return self._with(MpiCommunicator(comm, name, members, True if self.shared is not None else None))

    @blocking
    def duplicate(self, name: str) -> Communicator:
        return self._with(MpiCommunicator(self.comm.Dup(), name, self.members, self.shared is not None))

    def _with(self, made: MpiCommunicator) -> MpiCommunicator:
        self.derived = (*self.derived, made)
        return made


def memory(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's own memory as MPI can take it; a tensor elsewhere, or with gaps, is an error rather than a copy."""
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError(f"MPI reduces contiguous CPU tensors in place, got {tensor.device}, strides {tensor.stride()}")
    return tensor.detach().numpy()


class Channel:
    """A thread that sums what it is given, one after the other, on a communicator of its own."""

    def __init__(self, mpi: Any, comm: Any) -> None:
        self.mpi, self.comm = mpi, comm
        self.parts: queue.SimpleQueue[torch.Tensor | None] = queue.SimpleQueue()
        self.started = self.finished = 0
        self.one_finished = threading.Condition()
        self.awaited = False
        self.problem: Exception | None = None
        self.thread = threading.Thread(target=self._work, name="reducer", daemon=True)
        self.thread.start()

    def start(self, part: torch.Tensor) -> int:
        """Its number, to wait for."""
        self.awaited = False
        self.started += 1
        self.parts.put(part)
        return self.started

    def wait(self, number: int) -> None:
        self.awaited = True
        with self.one_finished:
            while self.finished < number:
                self.one_finished.wait()
        if self.problem is not None:
            raise RuntimeError(f"the reduce beside the backward pass failed: {self.problem}") from self.problem

    def close(self) -> None:
        self.parts.put(None)
        self.thread.join()
        self.comm.Free()

    def _work(self) -> None:
        while (part := self.parts.get()) is not None:
            try:
                if self.problem is None:
                    self._sum(memory(part).reshape(-1))
            except Exception as error:
                self.problem = error
            with self.one_finished:
                self.finished += 1
                self.one_finished.notify_all()

    def _sum(self, part: Any) -> None:
        for start in range(0, len(part), MOST_AT_ONCE):
            request = self.comm.Iallreduce(self.mpi.IN_PLACE, part[start : start + MOST_AT_ONCE])
            while not request.Test():
                if self.awaited:
                    request.Wait()
                    break
                time.sleep(REST)


class ChannelWork(Work):
    def __init__(self, communicator: MpiCommunicator, channel: Channel, number: int) -> None:
        self.communicator, self.channel, self.number = communicator, channel, number

    def wait(self) -> None:
        self.communicator.waiting = True
        try:
            self.channel.wait(self.number)
        finally:
            self.communicator.waiting = False

    def done(self) -> bool:
        return self.channel.finished >= self.number


class RequestWork(Work):
    """A message under way."""

    def __init__(self, communicator: MpiCommunicator, request: Any) -> None:
        self.communicator, self.request = communicator, request

    def wait(self) -> None:
        self.communicator.waiting = True
        try:
            self.request.Wait()
        finally:
            self.communicator.waiting = False

    def done(self) -> bool:
        return bool(self.request.Test())


class MpiTransport(Transport):
    name = "mpi"

    def refuses(self, place: Place, device: torch.device) -> str | None:
        if place.launcher != "mpi":
            return "MPI carries reduces only between ranks that mpirun or horovodrun --mpi started"
        if device.type != "cpu":
            return "MPI reduces CPU tensors only"
        return None

    def start(self, place: Place, device: torch.device) -> Communicator:
        from mpi4py import MPI

        end_all_by_an_exception()
        return MpiCommunicator(MPI.COMM_WORLD)


def end_all_by_an_exception() -> None:
    """A rank that raises would wait for the others at MPI's end, and they for it in a collective."""
    show = sys.excepthook

    def show_and_abort(*error: Any) -> None:
        show(*error)
        sys.stdout.flush()
        sys.stderr.flush()
        abort(1)

    sys.excepthook = show_and_abort


def abort(code: int) -> None:
    """Ends all ranks at once, where MPI runs."""
    MPI = sys.modules["mpi4py.MPI"]
    if MPI.Is_initialized() and not MPI.Is_finalized():
        MPI.COMM_WORLD.Abort(code)
