"""`harness bench allreduce` between two hosts that a hostfile names."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import TwoHosts, find_sshd
from tests.conftest import need

MEASURE = """
import json
from harness.bench import allreduce
from harness.bench.launch import Places
from harness.bench.screen import Screen

allreduce.WAYS = [way for way in allreduce.WAYS if way.name in ("mpi", "torch-gloo")]
with Screen() as screen:
    rows, left_out = allreduce.measure(Places.find([2], "hosts", "mpirun"), [2], [1 << 20], 1, 0.2, screen)
print(json.dumps([{row.way: row.microseconds.median for row in rows}, [left.reason for left in left_out]]))
"""


@pytest.fixture(scope="module")
def hosts(short_folder: Path) -> Iterator[TwoHosts]:
    context = all(shutil.which(tool) for tool in ("ip", "tc", "unshare", "ssh", "ssh-keygen")) and find_sshd()
    need(os.geteuid() == 0 and context, "needs root, ip, tc and sshd (Debian: iproute2, openssh-server)")
    folder = short_folder / "bench"
    folder.mkdir()
    two = TwoHosts(folder)
    yield two
    two.stop()


def test_every_way_goes_over_the_wire_between_the_hosts(hosts: TwoHosts) -> None:
    """Each way sends 1 MB each way at least, which takes 8.4 ms at 1 Gbit/s: ranks of one host would be far faster."""
    hosts.limit("1gbit")
    (hosts.folder / "hosts").write_text("".join(f"{address} slots=1\n" for address in reversed(hosts.addresses)))
    times, left_out = json.loads(hosts.python(MEASURE).splitlines()[-1])
    assert set(times) == {"mpi", "torch-gloo"}, left_out
    assert all(microseconds > 6000 for microseconds in times.values()), times
