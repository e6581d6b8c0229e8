"""What ranks say to each other: all-reduce, broadcast, gather; by Horovod, by MPI, or alone."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
import torch

from harness.distributed.shared_memory import LARGEST, SharedMemory
from harness.distributed.shared_memory import serves as shared_memory_serves

Operation = Literal["sum", "min", "max"]
MOST_AT_ONCE = 4 * 1024 * 1024
"""Numbers that MPI reduces in one call. Its algorithms take memory for as many, and above 32 MB the system gives and
takes back that memory at every call: 100 MB between two ranks of a host take 57 ms at once, 17 ms in parts of 16 MB, 13
in parts of 4 MB; between hosts small parts cost time, for the wire rests between them."""


class Collectives(ABC):
    """Every method is called by all ranks in the same order, or all of them wait for ever."""

    path: str
    """`horovod`, `mpi` or `alone`: what carries the reduces."""
    rank: int
    size: int

    @abstractmethod
    def all_reduce_(self, tensor: torch.Tensor, op: Operation = "sum", name: str = "value") -> torch.Tensor:
        """Reduces `tensor` over the ranks in place; the result is bit-equal on all of them.

        `name` says what it is for. Equal names, shapes and dtypes in turn are what Horovod's response cache is for; two
        reduces in flight at once must have different ones.
        """

    @abstractmethod
    def broadcast_(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        """Rank `root`'s `tensor` on every rank, in place."""

    @abstractmethod
    def gather_objects(self, value: Any) -> list[Any]:
        """Every rank's `value`, in the order of ranks, on every rank."""

    @abstractmethod
    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        """Rank `root`'s `value` on every rank."""

    def close(self) -> None:
        """Ends what carries them; by all ranks, and nothing is called after it."""

    def barrier(self) -> None:
        self.all_reduce_(torch.zeros(1), name="barrier")

    def agree(self, values: dict[str, float], op: Operation = "sum") -> dict[str, float]:
        """Each value reduced over the ranks in float64, by one collective; the keys must be the same on all ranks."""
        reduced = self.all_reduce_(torch.tensor(list(values.values()), dtype=torch.float64), op, name="agree")
        return dict(zip(values, reduced.tolist()))


class Alone(Collectives):
    """One rank: everything is agreed already."""

    path = "alone"
    rank = 0
    size = 1

    def all_reduce_(self, tensor: torch.Tensor, op: Operation = "sum", name: str = "value") -> torch.Tensor:
        return tensor

    def broadcast_(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        return tensor

    def gather_objects(self, value: Any) -> list[Any]:
        return [value]

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        return value


class HorovodCollectives(Collectives):
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


class MpiCollectives(Collectives):
    """mpi4py, in place on the tensor's own memory; CPU tensors alone. Small ones of ranks that share a host go through
    memory that they share."""

    path = "mpi"

    def __init__(self, communicator: Any) -> None:
        from mpi4py import MPI

        self.mpi, self.communicator = MPI, communicator
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()
        self.operations = {"sum": MPI.SUM, "min": MPI.MIN, "max": MPI.MAX}
        self.shared = SharedMemory(communicator) if shared_memory_serves(communicator) else None
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
            self.communicator.Allreduce(self.mpi.IN_PLACE, memory(tensor), op=self.operations[op])
            return tensor
        flat = memory(tensor).reshape(-1)
        for start in range(0, len(flat), MOST_AT_ONCE):
            self.communicator.Allreduce(self.mpi.IN_PLACE, flat[start : start + MOST_AT_ONCE], op=self.operations[op])
        return tensor

    def broadcast_(self, tensor: torch.Tensor, root: int = 0) -> torch.Tensor:
        self.communicator.Bcast(memory(tensor), root=root)
        return tensor

    def gather_objects(self, value: Any) -> list[Any]:
        return self.communicator.allgather(value)

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        return self.communicator.bcast(value, root=root)


def memory(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's own memory as MPI can take it; a tensor elsewhere, or with gaps, is an error rather than a copy."""
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError(f"MPI reduces contiguous CPU tensors in place, got {tensor.device}, strides {tensor.stride()}")
    return tensor.detach().numpy()


@torch.no_grad()
def broadcast_state(collectives: Collectives, module: torch.nn.Module) -> None:
    """Rank 0's parameters, buffers (those that are not saved too) and extra state on every rank, once at the start.

    Whatever one rank can hold is right: any dtype, and any Python object as extra state. Where that cannot be sent,
    each rank keeps its own.
    """
    if collectives.size == 1:
        return
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with_extra = {
        path: part
        for path, part in module.named_modules()
        if type(part).get_extra_state is not torch.nn.Module.get_extra_state
    }
    packed = None
    if collectives.rank == 0:
        extra = {path: sendable(part.get_extra_state()) for path, part in with_extra.items()}
        packed = pack({"tensors": {name: tensor.detach() for name, tensor in tensors.items()}, "extra": extra})
    received = unpack(collectives.broadcast_object(packed))
    if collectives.rank == 0:
        return
    for name, tensor in received["tensors"].items():
        parent, _, own = name.rpartition(".")
        put(module.get_submodule(parent), own, tensor)
    for path, extra in received["extra"].items():
        if not isinstance(extra, NotSent):
            with_extra[path].set_extra_state(extra)


@torch.no_grad()
def put(module: torch.nn.Module, name: str, value: torch.Tensor) -> None:
    """`value` as the parameter or buffer `name` of `module`: in its memory where it fits, else in its place."""
    tensor: torch.Tensor | None = module._parameters.get(name)
    if tensor is None:
        tensor = module._buffers.get(name)
    if tensor is not None:
        value = value.to(tensor.device)
        plain = all(each.layout is torch.strided and not each.is_quantized for each in (tensor, value))
        if plain and not tensor.is_nested and tensor.shape == value.shape and tensor.dtype == value.dtype:
            if all(stride or length < 2 for stride, length in zip(tensor.stride(), tensor.shape)):
                tensor.copy_(value)
                return
    module._buffers[name] = value


class NotSent:
    """In place of a value that cannot be pickled."""


def sendable(value: Any) -> Any:
    """`value` as it can be sent: what cannot be pickled in it is `NotSent`."""
    try:
        pack(value)
        return value
    except Exception:
        pass
    if type(value) is dict:
        return {key: sendable(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(sendable, value))
    return NotSent()


def pack(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def unpack(packed: bytes, device: torch.device | None = None) -> Any:
    """What a rank of this run has packed: trusted, as all that ranks pickle for each other is. Tensors of a device
    come to `device`, or to the CPU."""

    def place(storage: Any, location: str) -> Any:
        return storage if location == "cpu" or device is None or device.type == "cpu" else storage.to(device=device)

    return torch.load(io.BytesIO(packed), map_location=place if device is not None else "cpu", weights_only=False)
