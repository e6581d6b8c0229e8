"""All-reduce of a gradient, by each way that a step could take: microseconds, the median of single calls."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from harness.distributed.world import detect_place
from harness.files import write_json

WARM_UP = 50


def by_harness(tensor: torch.Tensor) -> tuple[Callable[[], object], Callable[[int], int], int]:
    """(reduces the tensor, agrees a count, this rank), in the world as `harness train` leaves it."""
    from harness.distributed.world import World

    communicator = World().start("auto")
    return lambda: communicator.all_reduce_(tensor, name="gradients"), communicator.broadcast_object, communicator.rank


def by_mpi4py(tensor: torch.Tensor) -> tuple[Callable[[], object], Callable[[int], int], int]:
    from mpi4py import MPI

    buffer: np.ndarray = tensor.numpy()
    world = MPI.COMM_WORLD
    return lambda: world.Allreduce(MPI.IN_PLACE, buffer), world.bcast, world.Get_rank()


def by_horovod(tensor: torch.Tensor) -> tuple[Callable[[], object], Callable[[int], int], int]:
    import horovod.torch as hvd

    hvd.init()
    reduce = lambda: hvd.allreduce_(tensor, op=hvd.Sum, name="gradients")  # noqa: E731
    return reduce, lambda count: hvd.broadcast_object(count, root_rank=0), hvd.rank()


def by_torch(tensor: torch.Tensor) -> tuple[Callable[[], object], Callable[[int], int], int]:
    import torch.distributed as dist

    place = detect_place(os.environ)
    meeting = Path(tempfile.gettempdir()) / f"gloo-{os.getppid()}"  # the launcher's process has both ranks for children
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=place.rank, world_size=place.size)
    dist.barrier()
    meeting.unlink(missing_ok=True)

    def agree(count: int) -> int:
        shared = torch.tensor([count])
        dist.broadcast(shared, 0)
        return int(shared)

    return lambda: dist.all_reduce(tensor), agree, place.rank


WAYS = {"harness": by_harness, "mpi4py": by_mpi4py, "horovod": by_horovod, "torch": by_torch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--kilobytes", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to measure")
    parser.add_argument("--seed", type=int, default=0, help="of no use here")
    parser.add_argument("--json", type=Path, required=True, help="where rank 0 writes its figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    reduce, agree, rank = WAYS[args.way](torch.zeros(args.kilobytes * 256))
    times = [timed(reduce) for _ in range(WARM_UP if args.kilobytes < 1024 else 5)]
    count = agree(max(len(times), round(args.seconds / statistics.mean(times))))
    times = [timed(reduce) for _ in range(count)]
    if rank == 0:
        write_json(args.json, {"microseconds": 1e6 * statistics.median(times)})


def timed(call: Callable[[], object]) -> float:
    began = perf_counter()
    call()
    return perf_counter() - began


if __name__ == "__main__":
    main()
