"""A rank's side of `harness bench allreduce`: one path, alone in its process, timed call by call."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch

from harness.bench.openmpi import allreduce_algorithm
from harness.distributed.transports.base import Communicator
from harness.distributed.world import World
from harness.errors import BadInput

WARM_UP_CALLS = 5
FEWEST_CALLS, MOST_CALLS = 7, 2000
KEPT = 400
"""Times of calls that are handed over for each size, spread evenly over all of them."""


def measure(world: World, path: str, hosts: list[str], sizes: list[int], seconds: float) -> dict[str, Any]:
    """Times all-reduces of float32 buffers of `sizes` bytes over `path`, for about `seconds` each;
    `hosts` are the names by which the ranks' hosts reach each other.

    Returns what the path is made of and, for each size, the seconds of its calls: of each call the mean over the ranks,
    as nccl-tests averages by default. The first call of each size is checked.
    """
    communicator = start(world, path, hosts)
    times = {}
    for size in sizes:
        tensor = torch.empty(size // 4, device=device_of(world, path))
        call = synchronised(make_call(path, communicator, tensor), tensor.device)
        check(communicator, tensor, call)
        tensor.zero_()  # sums of zeros stay zero, however often they are added
        times[str(size)] = [round(each, 9) for each in time_calls(communicator, call, seconds)]
    device, ranks = device_of(world, path).type, world.place.size
    mpi = library() if path not in ("torch-gloo", "nccl") and device == "cpu" else None
    return {
        "times": times,
        "device": device,
        "mpi": mpi,
        "cycle_milliseconds": os.environ.get("HOROVOD_CYCLE_TIME") if path.startswith("horovod") else None,
        "algorithms": {str(size): algorithm(communicator, path, mpi, ranks, size) for size in sizes},
    }


def start(world: World, path: str, hosts: list[str]) -> Communicator:
    """What carries `path`, as a run starts it where a run knows it."""
    if path in ("torch-gloo", "nccl"):
        return world.start_torch("nccl" if path == "nccl" else "gloo", hosts)
    if world.place.size == 1:
        raise BadInput("an all-reduce needs at least 2 ranks")
    return world.start("mpi" if path.startswith("mpi") else "horovod")


def device_of(world: World, path: str) -> torch.device:
    """A GPU for NCCL, and for Horovod where a run would use one; the CPU for the others."""
    return world.device if path == "nccl" or path.startswith("horovod") else torch.device("cpu")


def make_call(path: str, communicator: Communicator, tensor: torch.Tensor) -> Callable[[], object]:
    """One all-reduce of `tensor` in place."""
    if path in ("mpi-bare", "mpi-ring"):
        from mpi4py import MPI

        world, in_place, buffer = MPI.COMM_WORLD, MPI.IN_PLACE, tensor.numpy()
        return lambda: world.Allreduce(in_place, buffer)
    return lambda: communicator.all_reduce_(tensor, "sum", "gradients")


def algorithm(communicator: Communicator, path: str, mpi: str | None, ranks: int, size: int) -> str | None:
    """What MPI reduces `size` bytes by. Runs hand it large buffers in pieces, and small ones of one host not at all."""
    piece = communicator.piece_of(size) if path == "mpi" else size
    if piece is None:
        return "shared memory"
    name = allreduce_algorithm(mpi, os.environ, ranks, piece)
    return f"{name}, {piece >> 20} MB at a time" if name is not None and size > piece else name


def synchronised(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """On a GPU a call returns before the reduce is done."""
    if device.type != "cuda":
        return call

    def and_wait() -> None:
        call()
        torch.cuda.synchronize(device)

    return and_wait


def check(communicator: Communicator, tensor: torch.Tensor, call: Callable[[], object]) -> None:
    """RuntimeError where the sum over the ranks of rank + 1 is not N (N + 1) / 2 throughout."""
    ranks = communicator.size
    tensor.fill_(communicator.rank + 1)
    call()
    if not bool((tensor == ranks * (ranks + 1) / 2).all()):
        raise RuntimeError(f"{type(communicator).__name__} adds up wrongly: {tensor.unique().tolist()[:5]}")


def time_calls(communicator: Communicator, call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, mean over the ranks; back to back, as in training, without barriers in between."""
    for _ in range(WARM_UP_CALLS):
        call()
    begun = perf_counter()
    for _ in range(WARM_UP_CALLS):
        call()
    each = (perf_counter() - begun) / WARM_UP_CALLS
    mine = min(max(int(seconds / each), FEWEST_CALLS), MOST_CALLS)
    calls = int(min(communicator.gather_objects(mine)))
    communicator.barrier()
    times = np.empty(calls)
    for number in range(calls):
        begun = perf_counter()
        call()
        times[number] = perf_counter() - begun
    averages = np.mean(communicator.gather_objects(times.tolist()), axis=0)
    return averages[:: -(-calls // KEPT)].tolist()


def library() -> str | None:
    """The MPI that this process has loaded, such as `Open MPI v4.1.8`; None where it has none."""
    if "mpi4py.MPI" not in sys.modules:
        return None
    from mpi4py import MPI

    return MPI.Get_library_version().split(",")[0].strip()
