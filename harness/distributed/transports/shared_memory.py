"""All-reduce of small buffers between ranks of one host, through memory that they share.

MPI's own all-reduce takes a few messages there, and a rank that waits in it keeps its core: on a machine that others
use too, it takes the core from the very rank that it waits for. Here each rank copies its buffer to where all see it
and raises its number; who has seen all numbers adds the buffers up, in the order of the ranks, so that the sum is the
same to the bit everywhere. A rank that waits longer than a moment sleeps.
"""

from __future__ import annotations

import platform
from time import sleep
from typing import Any

import numpy as np

LARGEST = 256 * 1024
"""Bytes: above it, MPI's all-reduce shares out the additions among the ranks and is quicker."""
LINE = 64
"""Bytes of a cache line: numbers that different ranks write lie in lines of their own."""
SPINS = 6000
"""Looks at another rank's number before sleeping, together about 400 us: more than ranks in step wait."""
NAP = 50e-6
"""Seconds."""


def serves(communicator: Any) -> bool:
    """Whether all ranks share a host, and its processors show stores in the order in which they were made."""
    from mpi4py import MPI

    node = communicator.Split_type(MPI.COMM_TYPE_SHARED)
    together = node.Get_size() == communicator.Get_size() and platform.machine() in ("x86_64", "AMD64")
    node.Free()
    return bool(communicator.allreduce(together, op=MPI.LAND))


class SharedMemory:
    """Called by all ranks of `communicator` in the same order, with arrays of the same size."""

    OPERATIONS = {"sum": np.add, "min": np.minimum, "max": np.maximum}

    def __init__(self, communicator: Any) -> None:
        from mpi4py import MPI

        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()
        # two places for each rank's buffer, used in turn: nobody overwrites one before all have read it, since a rank
        # raises its number for the next only after it has read this one
        length = self.size * (LINE + 2 * LARGEST)
        self.window = MPI.Win.Allocate_shared(length if self.rank == 0 else 0, 1, comm=communicator)
        segment: Any = self.window.Shared_query(0)[0]
        whole = memoryview(segment)
        self.numbers = whole[: self.size * LINE].cast("q")
        self.numbers[self.rank * LINE // 8] = 0
        self.buffers = np.frombuffer(whole, np.uint8, offset=self.size * LINE).reshape(2, self.size, LARGEST)
        self.places = [rank * LINE // 8 for rank in range(self.size) if rank != self.rank]
        self.own = self.rank * LINE // 8
        self.number = 0
        self.views: dict[tuple[Any, ...], list[list[np.ndarray]]] = {}
        communicator.Barrier()

    def all_reduce_(self, array: np.ndarray, op: str) -> None:
        """`array`: C-contiguous, at most LARGEST bytes; reduced in place."""
        key = (array.dtype.char, array.size)
        views = self.views.get(key)
        if views is None:
            views = self.views[key] = [
                [buffer[: array.nbytes].view(array.dtype) for buffer in turn] for turn in self.buffers
            ]
        self.number = number = self.number + 1
        shared = views[number & 1]
        flat = array.reshape(-1)
        shared[self.rank][:] = flat
        numbers = self.numbers
        numbers[self.own] = number
        for place in self.places:
            looks = 0
            while numbers[place] < number:
                looks += 1
                if looks > SPINS:
                    sleep(NAP)
        combine = self.OPERATIONS[op]
        combine(shared[0], shared[1], out=flat)
        for other in shared[2:]:
            combine(flat, other, out=flat)

    def close(self) -> None:
        """Collective."""
        self.views.clear()
        del self.buffers
        self.numbers.release()
        self.window.Free()
