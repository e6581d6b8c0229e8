"""Each rank's share of the data: the batches that one rank would see, cut into parts; or streams that end unevenly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from harness.distributed.collectives import Collectives

KEPT = (
    "num_workers",
    "collate_fn",
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
class Share:
    """This rank's part of one batch."""

    batch: Any
    """As the loader gives it; where `samples` is 0 a stand-in: real data, for a rank that must go through the model."""
    samples: int
    """Of this rank."""
    total: int
    """Of all ranks, at least 1."""


class Shares:
    """Cuts loaders into the ranks' shares. `seed` decides, with the epoch, what a sampler draws."""

    def __init__(self, collectives: Collectives, seed: int) -> None:
        self.collectives, self.seed = collectives, seed
        self.loaders: WeakKeyDictionary[DataLoader, tuple[RankBatches, DataLoader]] = WeakKeyDictionary()

    def of(self, loader: Iterable[Any], epoch: int) -> Iterator[Share]:
        """This rank's share of each batch, in turn: as many on every rank."""
        if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
            return self.of_dataset(loader, epoch)
        return self.of_stream(loader)

    def of_dataset(self, loader: DataLoader, epoch: int) -> Iterator[Share]:
        """Every batch of `loader` cut into parts as numpy.array_split does it, one for each rank in turn.

        The loader's own sampler draws the batches, from random numbers that follow from the seed and the epoch.
        """
        drawn = self.collectives.broadcast_object(self.draw(loader, epoch) if self.collectives.rank == 0 else None)
        if isinstance(drawn, str):
            raise ValueError(drawn)
        own, own_loader = self.own_loader(loader)
        parts = [part_of(batch, self.collectives.rank, self.collectives.size) for batch in drawn]
        own.batches = [part or batch[:1] for part, batch in zip(parts, drawn)]
        assert own_loader.generator is not None  # for the workers' seeds: not the same on all ranks
        own_loader.generator.manual_seed(number_from(self.seed, epoch, self.collectives.rank))
        for loaded, batch, part in zip(own_loader, drawn, parts):
            yield Share(loaded, len(part), len(batch))

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
            own_loader = DataLoader(loader.dataset, batch_sampler=own, generator=torch.Generator(), **kept)
            self.loaders[loader] = own, own_loader
        return self.loaders[loader]

    def of_stream(self, loader: Iterable[Any]) -> Iterator[Share]:
        """What `loader` gives is this rank's alone; the ranks agree at each batch whether any of them has more.

        A rank whose stream has ended takes part without samples until all have.
        """
        stream, ended, last = iter(loader), False, None
        while True:
            batch = None if ended else next(stream, None)
            ended = batch is None
            last = last if ended else batch
            samples = 0 if ended else count_samples(batch)
            agreed = self.collectives.agree({"samples": samples, "going": not ended, "empty_handed": last is None})
            if not agreed["going"]:
                return
            if agreed["empty_handed"]:  # a rank that never had a batch is lent one to stand in
                holding = self.collectives.gather_objects(not ended).index(True)
                lent = self.collectives.broadcast_object(batch if self.collectives.rank == holding else None, holding)
                last = lent if last is None else last
            if agreed["samples"]:
                yield Share(last, samples, int(agreed["samples"]))


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


def count_samples(batch: Any) -> int:
    """The length of the first tensor or array in `batch`."""
    found = first_array(batch)
    if found is None:
        raise ValueError(f"cannot count the samples of a batch without tensors: {type(batch).__name__}")
    return int(found.shape[0]) if len(found.shape) else 1


def first_array(value: Any) -> Any:
    if hasattr(value, "shape"):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return next((found for found in map(first_array, value) if found is not None), None)
    return None


def to_device(value: Any, device: torch.device) -> Any:
    """`value` with all tensors in it on `device`."""
    if isinstance(value, Mapping):
        return type(value)({key: to_device(inner, device) for key, inner in value.items()})  # type: ignore[call-arg]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(inner, device) for inner in value))
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(inner, device) for inner in value)
    return value.to(device, non_blocking=True) if hasattr(value, "to") else value
