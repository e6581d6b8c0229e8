"""Making ranks agree: one state at the start, checks that it stays one, the first fault of any rank."""

from __future__ import annotations

import io
import zlib
from collections import Counter
from typing import Any

import torch

from harness.distributed.transports.base import Communicator
from harness.errors import EnvironmentFault, RanksDisagree


@torch.no_grad()
def broadcast_state(communicator: Communicator, module: torch.nn.Module) -> None:
    """Rank 0's parameters, buffers (those that are not saved too) and extra state on every rank, once at the start.

    Whatever one rank can hold is right: any dtype, and any Python object as extra state. Where that cannot be sent,
    each rank keeps its own.
    """
    if communicator.size == 1:
        return
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with_extra = {
        path: part
        for path, part in module.named_modules()
        if type(part).get_extra_state is not torch.nn.Module.get_extra_state
    }
    packed = None
    if communicator.rank == 0:
        extra = {path: sendable(part.get_extra_state()) for path, part in with_extra.items()}
        packed = pack({"tensors": {name: tensor.detach() for name, tensor in tensors.items()}, "extra": extra})
    received = unpack(communicator.broadcast_object(packed))
    if communicator.rank == 0:
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


def check_equal(communicator: Communicator, parameters: torch.Tensor, what: str = "parameters") -> None:
    """Raises RanksDisagree, on all ranks, unless `parameters` is the same to the bit everywhere: one small
    collective."""
    if communicator.size == 1:
        return
    digest = zlib.crc32(parameters.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    digests = communicator.gather_objects(digest)
    usual = digests.index(Counter(digests).most_common(1)[0][0])
    different = [rank for rank, other in enumerate(digests) if other != digests[usual]]
    if different:
        ranks = ", ".join(map(str, different))
        message = f"{what} of rank {ranks} differ from rank {usual}'s: this run cannot be trusted further"
        raise RanksDisagree(message, different[0])


def fault_of_ranks(fault: str | None, communicator: Communicator) -> EnvironmentFault | None:
    """What is wrong with an environment of any rank, the first of them; collective. `fault`: this rank's, in words."""
    for rank, found in enumerate(communicator.gather_objects(fault)):
        if found is not None:
            return EnvironmentFault(found, rank)
    return None
