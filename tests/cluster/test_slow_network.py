"""A rank on each of two hosts, between them a slow cable: what it can carry is what the reduces get, and work hides it.

The time of each is compared with a reference that the same ranks measure over the same cable: no clock decides.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import TwoHosts, find_sshd
from tests.conftest import need
from tests.multirank.launch import WAYS


@pytest.fixture(scope="module")
def hosts(short_folder: Path) -> Iterator[TwoHosts]:
    context = all(shutil.which(tool) for tool in ("ip", "tc", "unshare", "ssh", "ssh-keygen")) and find_sshd()
    need(os.geteuid() == 0 and context, "needs root, ip, tc and sshd (Debian: iproute2, openssh-server)")
    folder = short_folder / "slow"
    folder.mkdir()
    two = TwoHosts(folder)
    yield two
    two.stop()


EXCHANGE = """
import socket, threading, time
import torch
from tests.multirank.launch import give, join

def seconds_of(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began

def connect(rank):
    if rank:
        for _ in range(100):
            try:
                return socket.create_connection(("{one}", 29871))
            except OSError:
                time.sleep(0.1)
    with socket.create_server(("{one}", 29871)) as server:
        return server.accept()[0]

def exchange(cable, count):
    sender = threading.Thread(target=cable.sendall, args=(bytes(count),))
    sender.start()
    while count:
        count -= len(cable.recv(min(count, 1 << 20)))
    sender.join()

world, communicator = join()
buffer = torch.arange(2_000_000.0)
cable = connect(communicator.rank)
plain, reduces, results = [], [], []
for _ in range(4):
    communicator.barrier()
    plain.append(seconds_of(lambda: exchange(cable, buffer.nbytes)))
    value = buffer * (1 + communicator.rank)
    communicator.barrier()
    reduces.append(seconds_of(lambda: communicator.all_reduce_(value)))
    results.append(torch.equal(value, 3 * buffer))
give((all(results), min(reduces) / min(plain)))
world.stop()
"""


@pytest.mark.parametrize("way", ["mpi", "horovod-mpi"])
def test_a_large_reduce_fills_both_directions_of_the_cable(way: str, hosts: TwoHosts) -> None:
    """Two ranks send half of the buffer twice: as many bytes each way as the plain exchange, in hardly more time."""
    launcher, sync_path = WAYS[way]
    hosts.limit("100mbit")
    for right, ratio in hosts.ranks(launcher, EXCHANGE.format(one=hosts.addresses[0]), sync_path):
        assert right
        assert ratio <= 1.25


OVERLAP = """
import statistics, time
import torch
from torch import nn
from harness.training.precision import Precision, PrecisionSettings
from harness.training.step import Step
from tests.multirank.launch import give, join

class Slowly(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(PAUSE)
        return gradient

class Layer(nn.Linear):
    def forward(self, x):
        return torch.tanh(super().forward(Slowly.apply(x)))

def make_step(overlaps):
    torch.manual_seed(0)
    module = nn.Sequential(*(Layer(1030, 1030) for _ in range(4)))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    step = Step(module, lambda arena: optimizer, communicator, Precision(PrecisionSettings(), world.device), 1)
    assert step.sync.overlap is not None
    if not overlaps:
        step.reduce_at_once()
    return step

def train(step, number):
    x = torch.randn(8, 1030, generator=torch.Generator().manual_seed(10 * number + communicator.rank))
    def compute():
        loss = step.module(x).square().mean()
        return loss, loss.detach().view(1)
    communicator.barrier()
    times = [time.perf_counter()]
    step.fill(compute, 0.25 + 0.5 * communicator.rank)
    times.append(time.perf_counter())
    step.reduce()
    times.append(time.perf_counter())
    step.apply()
    return times[1] - times[0], times[2] - times[1]

world, communicator = join()
at_once, overlapped = make_step(False), make_step(True)
PAUSE = 0.0
train(at_once, 0), train(overlapped, 0)
PAUSE = 0.15
times = [(train(at_once, number), train(overlapped, number)) for number in range(1, 4)]
backward, wire = (statistics.median(parts[0][part] for parts in times) for part in range(2))
together = statistics.median(sum(parts[1]) for parts in times)
equal = torch.equal(at_once.arena.parameters, overlapped.arena.parameters)
give((equal, (backward + wire - together) / min(backward, wire)))
overlapped.reduce_at_once()
world.stop()
"""


@pytest.mark.parametrize("way", WAYS)
def test_the_backward_pass_hides_the_wire(way: str, hosts: TwoHosts) -> None:
    """As runs choose it; with the parameters of two steps without it, to the bit."""
    launcher, sync_path = WAYS[way]
    hosts.limit("200mbit")
    for equal, hidden in hosts.ranks(launcher, OVERLAP, sync_path):
        assert equal
        assert hidden >= 0.5
