"""Checkpoints of several ranks: whole, or not there, and all ranks know why."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.lifecycle.checkpoints import checkpoint
from tests.conftest import slow
from tests.multirank.launch import WAYS, run_ranks

SCRIPT = """
import sys, time
from pathlib import Path
import numpy as np, torch
from harness.lifecycle.checkpoints.saver import Saver, Snapshot
from harness.buffers.ring import Ring
from tests.multirank.launch import give, join

world, communicator = join()
rank, folder = communicator.rank, Path(sys.argv[1])
in_the_way = folder / "replay" / "rank-1"
if rank == 0:
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("where rank 1 wants a folder")
communicator.barrier()
saver = Saver(folder, communicator, (rank, 1, 2))
problems, seconds = [], []
for step in (1, 2):
    end = np.array([step])
    rings = {"rewards": Ring(np.full((1, 4), 10.0 * rank + step), end - 4, end)}
    own = {"observations": np.full((1, 3), float(rank))}
    began = time.monotonic()
    saver.save(Snapshot(step, {"weight": torch.ones(3)}, {"env_steps": step}, {}, own, rings))
    problems.append(saver.settle())
    seconds.append(time.monotonic() - began)
    if rank == 0 and step == 1:
        in_the_way.unlink()
    communicator.barrier()
give((problems, max(seconds)))
world.stop()
"""


@pytest.mark.parametrize("way", ["mpi", slow("horovod-gloo")])
def test_a_rank_that_cannot_write_its_part_costs_a_checkpoint_and_nobody_waits_for_it(way: str, tmp_path: Path) -> None:
    launcher, sync_path = WAYS[way]
    folder = tmp_path / "checkpoints"
    given = run_ranks(2, launcher, SCRIPT, tmp_path, str(folder), sync_path=sync_path).given
    for problems, seconds in given:
        assert problems == ["no checkpoint of 1 steps: rank 1: File exists", None] and seconds < 20
    assert [path.name for path in checkpoint.saved_steps(folder)] == ["step-000000002"]
    assert not list(folder.glob(".step-*"))
    found = checkpoint.load(folder / "latest")
    assert found is not None and found.ranks == 2
    for rank, part in enumerate(found.parts):
        assert (part.first, part.total) == (rank, 2) and (found.part(part)[0].own["observations"] == rank).all()
    # rank 0's first segment was written, and is used by the checkpoint that came about
    assert [[segment.ranges["rewards"] for segment in part.segments] for part in found.parts] == [
        [[[0, 1]], [[1, 2]]],
        [[[0, 2]]],
    ]
