"""Small reduces between ranks of one host, through the memory that they share: right, equal to the bit, and in step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import slow
from tests.multirank.launch import run_ranks

SCRIPT = """
import time
import numpy as np
import torch
from harness.distributed.transports.mpi import MpiCommunicator
from harness.distributed.transports.shared_memory import LARGEST, SharedMemory
from tests.multirank.launch import give, join

world, ours = join()
assert isinstance(ours, MpiCommunicator)
assert isinstance(ours.shared, SharedMemory)
rank, size = ours.rank, ours.size
draw = np.random.default_rng(rank)
right, digests = [], []
for number in range(600):
    elements = [1, 7, 9161, LARGEST // 8, LARGEST // 4][number % 5]
    dtype = [np.float32, np.float64, np.int64][number % 3]
    op = ["sum", "min", "max"][number // 5 % 3]
    if elements * np.dtype(dtype).itemsize > LARGEST:
        dtype = np.float32
    mine = (draw.normal(size=elements) * 1000).astype(dtype)
    if number % 97 == rank:
        time.sleep(0.02)  # a rank that is late
    all_of_them = np.stack(ours.comm.allgather(mine)) if number % 4 == 0 else None
    tensor = torch.from_numpy(mine.copy())
    assert ours.all_reduce_(tensor, op) is tensor
    digests.append(tensor.numpy().tobytes())
    if all_of_them is not None:
        expected = {"sum": np.sum, "min": np.min, "max": np.max}[op](all_of_them, axis=0)
        right.append(np.allclose(tensor.numpy(), expected, rtol=1e-5, atol=1e-2))
    else:  # back to back: a quick rank must not overwrite what a slow one still reads
        again = torch.full((elements,), float(rank + number))
        ours.all_reduce_(again)
        right.append(bool((again == sum(r + number for r in range(size))).all()))
    untouched = torch.from_numpy(mine.copy())
    assert torch.equal(untouched, torch.from_numpy(mine))
everyone = ours.gather_objects(digests)
large = torch.ones(LARGEST)  # four times what goes through shared memory
ours.all_reduce_(large)
grid = torch.full((3, 4), float(rank + 1))
ours.all_reduce_(grid)
give({
    "right": all(right), "equal": all(each == everyone[0] for each in everyone), "count": len(right),
    "large": large.unique().tolist(), "grid": grid.unique().tolist(), "number": ours.shared.number,
})
"""


@pytest.mark.parametrize("ranks", [2, slow(3)])
def test_it_is_an_all_reduce_that_is_equal_to_the_bit_on_every_rank(ranks: int, tmp_path: Path) -> None:
    for given in run_ranks(ranks, "mpirun", SCRIPT, tmp_path, sync_path="mpi").given:
        assert given["right"] and given["equal"] and given["count"] == 600
        assert given["large"] == [float(ranks)]
        assert given["grid"] == [float(sum(range(1, ranks + 1)))]
        assert given["number"] > 1000, "they did go through shared memory"


@pytest.mark.parametrize(
    ("launcher", "hosts", "path", "why"),
    [
        slow("mpirun", 1, "mpi", "memory that the ranks share"),
        ("horovodrun", 1, "mpi", "memory that the ranks share"),
        ("mpirun", 2, "mpi", "horovod"),
        ("horovodrun-gloo", 1, "horovod", "MPI carries"),
    ],
)
def test_auto_takes_the_quicker_path_and_says_why(
    launcher: str, hosts: int, path: str, why: str, tmp_path: Path
) -> None:
    """On several hosts, as which these ranks are taken, it measures."""
    code = f"""
from dataclasses import replace
import torch
from harness.distributed.world import World
from tests.multirank.launch import give
world = World()
if {hosts} == 2:
    world.place = replace(world.place, local_size=1)
ours = world.start("auto")
total = ours.all_reduce_(torch.ones(100))
again = ours.gather_objects(ours.rank)
give((ours.transport, world.reason, total.unique().tolist(), again))
world.stop()
"""
    for found, reason, total, ranks in run_ranks(2, launcher, code, tmp_path).given:
        assert found == path and total == [2.0] and ranks == [0, 1]
        assert why in reason
