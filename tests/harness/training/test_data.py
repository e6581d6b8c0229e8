"""What each rank sees of the data: together, the very batches that one rank sees."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset, WeightedRandomSampler

from harness.distributed.transports.base import Alone
from harness.training.data import Shares, count_samples, part_of, to_device

DATA = TensorDataset(torch.arange(23))


class Seat(Alone):
    """A rank of several that come one after another: what rank 0 broadcasts lies on the table for the others."""

    def __init__(self, rank, size, table):
        self.rank, self.size, self.table = rank, size, table

    def broadcast_object(self, value, root=0):
        if self.rank == root:
            self.table.append(value)
        return self.table[-1]


def batches(loader, ranks=1, seed=0, epoch=0):
    """For each global batch the ranks' parts, as lists; a stand-in is no part."""
    table, seen = [], []
    for rank in range(ranks):
        torch.manual_seed(rank)  # whatever the ranks' own random numbers are
        shares = list(Shares(Seat(rank, ranks, table), seed).of(loader, epoch))
        seen.append([share.batch[0].tolist() if share.samples else [] for share in shares])
        assert all(share.samples == len(part) for share, part in zip(shares, seen[-1]))
        totals = [share.total for share in shares]
    parts = list(zip(*seen))
    assert totals == [sum(map(len, part)) for part in parts]
    return parts


def whole(parts):
    return [[sample for rank in part for sample in rank] for part in parts]


@pytest.mark.parametrize("length", range(8))
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_parts_are_those_of_array_split(length, size):
    batch = list(range(length))
    expected = [part.tolist() for part in np.array_split(batch, size)]
    assert [part_of(batch, rank, size) for rank in range(size)] == expected


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_ranks_see_together_the_batches_of_one(ranks, shuffle, drop_last):
    loader = DataLoader(DATA, batch_size=7, shuffle=shuffle, drop_last=drop_last)
    assert whole(batches(loader, ranks)) == whole(batches(loader))
    assert [len(batch) for batch in whole(batches(loader))] == [7, 7, 7] + [2] * (not drop_last)


def test_a_last_batch_smaller_than_the_ranks_leaves_some_with_a_stand_in():
    loader = DataLoader(DATA, batch_size=11)
    assert batches(loader, 2)[-1] == ([22], [])
    share = list(Shares(Seat(1, 2, [[[0, 1], [22]]]), 0).of(loader, 0))[-1]
    assert (share.samples, share.total, share.batch[0].tolist()) == (0, 1, [22])


def test_the_order_follows_from_seed_and_epoch_alone():
    loader = DataLoader(DATA, batch_size=7, shuffle=True)
    first = batches(loader, seed=1, epoch=2)
    torch.rand(9)
    assert batches(loader, seed=1, epoch=2) == first
    assert batches(loader, seed=1, epoch=3) != first
    assert batches(loader, seed=2, epoch=2) != first
    assert sorted(sum(whole(first), [])) == list(range(23))


def test_the_users_own_random_numbers_are_not_touched():
    loader = DataLoader(DATA, batch_size=7, shuffle=True)
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    list(Shares(Alone(), 0).of(loader, 0))
    assert torch.equal(torch.rand(3), expected)


def test_any_sampler_draws_once_for_all_ranks():
    sampler = WeightedRandomSampler([1.0] * 22 + [50.0], num_samples=40)
    parts = batches(DataLoader(DATA, batch_size=8, sampler=sampler), ranks=3)
    drawn = sum(whole(parts), [])
    assert len(drawn) == 40 and drawn.count(22) > 15
    own = DataLoader(DATA, batch_sampler=[[5, 6, 7], [], [1]])
    assert batches(own, ranks=2) == [([5, 6], [7]), ([1], [])]


def test_collate_workers_and_their_persistence_are_kept():
    loader = DataLoader(
        DATA, batch_size=6, num_workers=1, persistent_workers=True, collate_fn=lambda rows: [torch.stack(rows[0]) * 10]
    )
    shares = Shares(Alone(), 0)
    seen = [[share.batch[0].tolist() for share in shares.of(loader, epoch)] for epoch in range(2)]
    assert seen == [[[0], [60], [120], [180]]] * 2
    _, own_loader = shares.own_loader(loader)
    assert own_loader._iterator is not None  # the same workers, still there


@pytest.mark.parametrize(
    "loader, reason",
    [
        (DataLoader(DATA, batch_size=None), "batch_size=None"),
        (DataLoader(DATA, 4, sampler=DistributedSampler(DATA, num_replicas=2, rank=0)), "DistributedSampler"),
    ],
)
def test_loaders_that_cannot_be_cut_are_refused(loader, reason):
    with pytest.raises(ValueError, match=reason):
        list(Shares(Alone(), 0).of(loader, 0))


def test_a_stream_is_this_ranks_alone():
    stream = [
        (torch.zeros(3, 2), torch.zeros(3)),
        (torch.zeros(0, 2), torch.zeros(0)),
        (torch.zeros(1, 2), torch.zeros(1)),
    ]
    assert [(share.samples, share.total) for share in Shares(Alone(), 0).of(stream, 0)] == [(3, 3), (1, 1)]


Batch = namedtuple("Batch", "inputs targets")


def test_samples_are_counted_and_moved_wherever_the_tensors_stand():
    batch = Batch({"text": "no tensor", "x": torch.zeros(5, 2)}, [np.zeros(5)])
    assert count_samples(batch) == 5
    moved = to_device(batch, torch.device("meta"))
    assert isinstance(moved, Batch) and moved.inputs["x"].device.type == "meta" and moved.inputs["text"] == "no tensor"
    with pytest.raises(ValueError, match="without tensors"):
        count_samples(["a", "b"])
