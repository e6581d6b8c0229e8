"""All-reduce of small buffers between ranks of one host, through memory that they share.

MPI's own all-reduce takes a few messages there, and a rank that waits in it keeps its core: on a machine that others
use too, it takes the core from the very rank that it waits for. Here each rank copies its buffer to where all see it
and raises its number; who has seen all numbers adds the buffers up, in the order of the ranks, so that the sum is the
same to the bit everywhere. A rank that waits longer than a moment sleeps, and is woken: its core is then free for
whoever the ranks wait for.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from harness.distributed.transports.futex import Futex, Timeout

LARGEST = 256 * 1024
"""Bytes: above it, MPI's all-reduce shares out the additions among the ranks and is quicker."""
LINE = 64
"""Bytes of a cache line: numbers that different ranks write lie in lines of their own."""
MOST_SPINS, LEAST_SPINS = 6000, 300
"""Looks at another rank's number before sleeping: together about 400 us, more than ranks in step wait, where waits have
been so short; 20 us where they have not, since another process may have the core that the others need."""
NAP = Timeout(1_000_000)
"""How long a rank sleeps at most before it looks again: who is to wake it may have looked just before it lay down."""


def serves(communicator: Any) -> bool:
    """Whether all ranks share a host with Linux, whose processors show stores in the order in which they were made."""
    from mpi4py import MPI

    node = communicator.Split_type(MPI.COMM_TYPE_SHARED)
    together = node.Get_size() == communicator.Get_size()
    together = together and (platform.system(), platform.machine()) == ("Linux", "x86_64")
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
        length = self.size * (2 * LINE + 2 * LARGEST)
        self.window = MPI.Win.Allocate_shared(length if self.rank == 0 else 0, 1, comm=communicator)
        segment: Any = self.window.Shared_query(0)[0]
        whole = memoryview(segment)
        self.numbers = whole[: 2 * self.size * LINE].cast("q")
        """Of each rank how many reduces it has begun, in lines of their own; then, likewise, whether it sleeps."""
        self.buffers = np.frombuffer(whole, np.uint8, offset=2 * self.size * LINE).reshape(2, self.size, LARGEST)
        self.places = [rank * LINE // 8 for rank in range(self.size) if rank != self.rank]
        self.own, self.sleeps = self.rank * LINE // 8, (self.size + self.rank) * LINE // 8
        self.sleepers = [self.size * LINE // 8 + place for place in self.places]
        self.numbers[self.own] = self.numbers[self.sleeps] = 0
        self.address = np.frombuffer(whole, np.uint8).ctypes.data
        self.futex = Futex()
        self.number, self.spins = 0, MOST_SPINS
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
        for sleeper in self.sleepers:
            if numbers[sleeper]:
                self.futex.wake(self.address + 8 * self.own)
                break
        for place in self.places:
            looks, most = 0, self.spins
            while numbers[place] < number:
                looks += 1
                if looks > most:
                    self.sleep(place, number)
            if looks:
                self.spins = min(2 * most, MOST_SPINS) if looks <= most else max(most // 2, LEAST_SPINS)
        combine = self.OPERATIONS[op]
        combine(shared[0], shared[1], out=flat)
        for other in shared[2:]:
            combine(flat, other, out=flat)

    def sleep(self, place: int, number: int) -> None:
        """Until the rank whose number is at `place` has come to `number`, or for a moment."""
        numbers = self.numbers
        numbers[self.sleeps] = 1
        seen = numbers[place]
        if seen < number:
            self.futex.wait(self.address + 8 * place, seen & 0xFFFFFFFF, NAP)
        numbers[self.sleeps] = 0

    def close(self) -> None:
        """Collective."""
        self.views.clear()
        del self.buffers
        self.numbers.release()
        self.window.Free()
