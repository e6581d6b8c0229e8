"""Each rank's share of the data: the batches that one rank would see, cut into parts; or streams that end unevenly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, default_collate

from harness.distributed.transports.base import Communicator
from harness.training.containers import count_samples, to_device

__all__ = ["BatchShare", "Shares", "count_samples", "part_of", "to_device"]

KEPT = (
    "num_workers",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "prefetch_factor",
    "persistent_workers",
    "in_order",
)
"""What a loader of a rank's share takes over from the user's."""


@dataclass(frozen=True)
class BatchShare:
    """This rank's part of one batch."""

    batch: Any
    """As the loader gives it; where `samples` is 0 a stand-in: real data, for a rank that must go through the model, or
    None where there is none."""
    samples: int
    """Of this rank: what came out of the collate function, whatever went in."""
    total: int
    """Of all ranks, at least 1, before the collate function left any out."""
    claimed: int | None = None
    """What the whole batch holds, where this rank's part of it could not be collated alone: then the others hold all of
    it."""


class Collate:
    """A user's collate function, whose failure comes back as what it is: a part of a batch may be all left out."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, rows: list[Any]) -> Any:
        try:
            return self.collate(rows)
        except Exception:
            return ExceptionWrapper(where="in the collate function")


class Shares:
    """Cuts loaders into the ranks' shares. `seed` decides, with the epoch, what a sampler draws."""

    def __init__(self, communicator: Communicator, seed: int, count: Callable[[Any], int] | None = None) -> None:
        """`count`: how many samples a batch holds, where that is not what `count_samples` tells."""
        self.communicator, self.seed, self.count = communicator, seed, count
        self.loaders: WeakKeyDictionary[DataLoader, tuple[RankBatches, DataLoader]] = WeakKeyDictionary()

    def of(self, loader: Iterable[Any], epoch: int) -> Iterator[BatchShare]:
        """This rank's share of each batch, in turn: as many on every rank."""
        if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
            return self.of_dataset(loader, epoch)
        return self.of_stream(loader)

    def of_dataset(self, loader: DataLoader, epoch: int) -> Iterator[BatchShare]:
        """Every batch of `loader` cut into parts as numpy.array_split does it, one for each rank in turn.

        The loader's own sampler draws the batches, from random numbers that follow from the seed and the epoch.
        """
        drawn = self.communicator.broadcast_object(self.draw(loader, epoch) if self.communicator.rank == 0 else None)
        if isinstance(drawn, str):
            raise ValueError(drawn)
        own, own_loader = self.own_loader(loader)
        parts = [part_of(batch, self.communicator.rank, self.communicator.size) for batch in drawn]
        own.batches = [part or batch[:1] for part, batch in zip(parts, drawn)]
        assert own_loader.generator is not None  # for the workers' seeds: not the same on all ranks
        own_loader.generator.manual_seed(number_from(self.seed, epoch, self.communicator.rank))
        last = None
        for loaded, batch, part in zip(own_loader, drawn, parts):
            share = self.share_of(loaded, loader, batch, len(part), last)
            last = share.batch
            yield share

    def share_of(self, loaded: Any, loader: DataLoader, batch: list[Any], part: int, last: Any) -> BatchShare:
        """What was `loaded` for the `part` indices that this rank has of `batch`; `last`: a batch that can stand in.

        A collate function that leaves samples out may have nothing left of a part, and fail or give None, where the
        whole batch would do.
        """
        if isinstance(loaded, ExceptionWrapper):
            if last is not None and not part:
                return BatchShare(last, 0, len(batch))
            try:
                loaded_whole = loader.collate_fn(fetched(loader.dataset, batch))
            except Exception:
                loaded.reraise()
            held = self.counted(loaded_whole, loader, len(batch)) if loaded_whole is not None else 0
            return BatchShare(loaded_whole, 0, len(batch), held if part else None)
        if loaded is None:
            stand_in = last if last is not None else loader.collate_fn(fetched(loader.dataset, batch))
            return BatchShare(stand_in, 0, len(batch))
        if not part:
            return BatchShare(loaded, 0, len(batch))
        samples = self.counted(loaded, loader, part)
        return BatchShare(loaded if samples or last is None else last, samples, len(batch))

    def counted(self, loaded: Any, loader: DataLoader, indices: int) -> int:
        """The samples in a batch that was loaded for so many `indices`: torch's own collate function leaves none out,
        and no collate function makes any (what is longer is a sequence, or a graph's nodes)."""
        if self.count is not None:
            return self.count(loaded)
        if loader.collate_fn is default_collate:
            return indices
        try:
            return min(count_samples(loaded), indices)
        except ValueError:  # no tensor in it to count by
            return indices

    def draw(self, loader: DataLoader, epoch: int) -> list[list[Any]] | str:
        """The batches of an epoch as the dataset's indices; or why there are none, for all ranks to raise."""
        if loader.batch_sampler is None:
            return (
                "a loader with batch_size=None cannot be cut into shares: give it a batch size, which counts all ranks"
            )
        if isinstance(getattr(loader.batch_sampler, "sampler", None), DistributedSampler):
            return (
                "a loader with a DistributedSampler is cut already: leave the sampler out, batch_size counts all ranks"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number_from(self.seed, epoch))
            return [list(batch) for batch in loader.batch_sampler if len(batch)]

    def own_loader(self, loader: DataLoader) -> tuple[RankBatches, DataLoader]:
        """A loader of this rank's indices that loads as `loader` does; kept, so that workers may persist."""
        if loader not in self.loaders:
            own = RankBatches()
            kept = {name: getattr(loader, name) for name in KEPT}
            own_loader = DataLoader(
                loader.dataset,
                batch_sampler=own,
                generator=torch.Generator(),
                collate_fn=Collate(loader.collate_fn),
                **kept,
            )
            self.loaders[loader] = own, own_loader
        return self.loaders[loader]

    def of_stream(self, loader: Iterable[Any]) -> Iterator[BatchShare]:
        """What `loader` gives is this rank's alone; the ranks agree at each batch whether any of them has more.

        A rank whose stream has ended takes part without samples until all have.
        """
        stream, ended, last = iter(loader), False, None
        while True:
            batch = ENDED if ended else next(stream, ENDED)
            ended = batch is ENDED
            samples, problem = 0, None
            if not ended and batch is not None:
                try:
                    samples = (self.count or count_samples)(batch)
                    last = batch
                except Exception as error:  # raised once the others know
                    problem = error
            agreed = self.communicator.agree(
                {
                    "samples": samples,
                    "going": not ended,
                    "empty_handed": last is None,
                    "holding": last is not None,
                    "failed": problem is not None,
                }
            )
            if problem is not None:
                raise problem
            if agreed["failed"]:
                raise ValueError("another rank could not count the samples of a batch")
            if not agreed["going"]:
                return
            if agreed["empty_handed"] and agreed["holding"]:  # a rank that never had a batch is lent one to stand in
                holding = self.communicator.gather_objects(last is not None).index(True)
                lent = self.communicator.broadcast_object(last if self.communicator.rank == holding else None, holding)
                last = lent if last is None else last
            if agreed["samples"]:
                yield BatchShare(batch if samples else last, samples, int(agreed["samples"]))


ENDED = object()
"""What a stream gives that has ended; None is a batch of which nothing is left."""


def fetched(dataset: Any, indices: list[Any]) -> Any:
    """What a collate function is given for `indices`, as torch's loaders fetch it."""
    if getattr(dataset, "__getitems__", None):
        return dataset.__getitems__(indices)
    return [dataset[index] for index in indices]


class RankBatches:
    """A batch sampler whose batches are set before each epoch."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def part_of(batch: list[Any], rank: int, size: int) -> list[Any]:
    """The part of rank `rank` of `size`: parts differ by at most one, the first ones are the larger."""
    least, larger = divmod(len(batch), size)
    first = rank * least + min(rank, larger)
    return batch[first : first + least + (rank < larger)]


def number_from(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
