"""What Open MPI takes for large buffers between hosts: seen by the order in which it adds three ranks' numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.cluster.openmpi import SETTINGS_BETWEEN_HOSTS
from tests.conftest import slow
from tests.multirank.launch import run_ranks

CODE = """
import torch
from tests.multirank.launch import give, join

world, communicator = join()
torch.manual_seed(communicator.rank)
own = torch.randn(300_000)
summed = communicator.all_reduce_(own.clone())
give((own, summed))
world.stop()
"""


@pytest.mark.parametrize("between_hosts", [slow(False), True])
def test_three_ranks_between_hosts_take_a_ring(between_hosts: bool, tmp_path: Path) -> None:
    """A ring adds up each third of the buffer beginning at another rank; on one host all of it begins at one rank."""
    env = SETTINGS_BETWEEN_HOSTS if between_hosts else {}
    given = run_ranks(3, "mpirun", CODE, tmp_path, sync_path="mpi", env=env).given
    own, sums = zip(*given)
    assert all(torch.equal(summed, sums[0]) for summed in sums)
    beginnings = set()
    for third in range(3):
        part = slice(third * 100_000, (third + 1) * 100_000)
        orders = [own[(first + 1) % 3][part] + own[(first + 2) % 3][part] + own[first][part] for first in range(3)]
        beginnings |= {first for first, total in enumerate(orders) if torch.equal(total, sums[0][part])}
    assert beginnings == {0, 1, 2} if between_hosts else len(beginnings) == 1
