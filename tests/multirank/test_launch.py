"""The tests' own way to real ranks."""

from __future__ import annotations

import pytest

from tests.multirank.launch import WAYS, run_ranks

SUM = """
import sys, torch
from tests.multirank.launch import give, join
world, communicator = join()
total = communicator.all_reduce_(torch.tensor([float(world.place.rank + 1)]))
print("rank", world.place.rank, flush=True)
give((communicator.transport, float(total), sys.argv[1]))
world.stop()
"""


@pytest.mark.parametrize("way", WAYS)
def test_ranks_reduce_over_the_path_that_was_chosen_and_hand_back_what_they_found(way, tmp_path):
    launcher, path = WAYS[way]
    ranks = run_ranks(2, launcher, SUM, tmp_path, "argument", sync_path=path)
    assert ranks.given == ((path, 3.0, "argument"),) * 2
    assert ranks.lines(1) == ["rank 1"]


def test_a_rank_that_fails_is_named_and_the_value_it_never_gave_is_none(tmp_path):
    code = SUM.replace("give(", "if world.place.rank == 1: raise ValueError('no more')\ngive(")
    ranks = run_ranks(2, "mpirun", code, tmp_path, "argument", fails=True)
    assert ranks.outcome.exit_code != 0
    assert ranks.given[1] is None
    with pytest.raises(AssertionError, match="no more"):
        run_ranks(2, "mpirun", code, tmp_path, "argument")
