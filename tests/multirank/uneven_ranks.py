"""On two ranks that are not alike: other weights, more data, broken numbers. Each function gives what its rank saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from harness import DistributedTrainer
from harness.distributed.agreement import check_equal
from harness.distributed.transports.base import Communicator
from harness.errors import Diverged, RanksDisagree
from tests.multirank.launch import give, join

STREAMS: dict[str, list[list[int]]] = {
    "uneven": [[4, 2, 3], [5]],
    "one has none": [[], [3, 2]],
    "an empty batch": [[2, 0, 2], [2, 0, 3]],
}
"""Sizes of the batches that each rank's stream gives."""


def make_model() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2))


def stream(sizes: list[int], rank: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(100 + rank)
    return [(torch.randn(size, 3, generator=draw) + rank, torch.randn(size, 2, generator=draw)) for size in sizes]


class Stream(IterableDataset):
    def __init__(self, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(self.batches)


def parameters(model: nn.Module) -> torch.Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in model.state_dict().values()])


def starts_from_rank_0(communicator: Communicator) -> Any:
    torch.manual_seed(communicator.rank)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * (communicator.rank + 1), momentum=0.9)
    if communicator.rank == 0:  # as a script does that loads a checkpoint on rank 0 alone
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    DistributedTrainer(model, optimizer, nn.MSELoss(), communicator=communicator)
    momentum = [optimizer.state[parameter]["momentum_buffer"].clone() for parameter in model.parameters()]
    return parameters(model), momentum, optimizer.param_groups[0]["lr"]


def streams(communicator: Communicator) -> Any:
    found = {}
    for name, sizes in STREAMS.items():
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        trainer = DistributedTrainer(model, optimizer, nn.MSELoss(), communicator=communicator)
        batches = stream(sizes[communicator.rank], communicator.rank)
        loader = DataLoader(Stream(batches), batch_size=None)
        found[name] = trainer.train_epoch(loader), parameters(model), trainer.test_epoch(batches)
    return found


def local_batch_norm(communicator: Communicator) -> Any:
    """Nothing is learned, so that the statistics are those of the data; `counter` is what a module of the users has."""
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    model.register_buffer("counter", torch.tensor(10 + communicator.rank))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-12)
    data = TensorDataset(*stream([10], 0)[0])
    trainer = DistributedTrainer(model, optimizer, nn.MSELoss(), communicator=communicator, batch_norm="local")
    trainer.model.counter.fill_(10 + communicator.rank)
    trainer.train_epoch(DataLoader(data, batch_size=5))  # 3 + 2, 3 + 2: in all 6 and 4
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def tests_exactly(communicator: Communicator) -> Any:
    """Nine samples by four: the last batch has one. BatchNorm without running statistics looks at batches here too."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv1d(1, 2, 2), nn.BatchNorm1d(2, track_running_stats=False), nn.Flatten(), nn.Linear(4, 2)
    )
    data = TensorDataset(torch.randn(9, 1, 3), torch.randn(9, 2))
    trainer = DistributedTrainer(model, "sgd", nn.MSELoss(), communicator=communicator)
    return trainer.test_epoch(DataLoader(data, batch_size=4), metric=lambda outputs, targets: outputs[:, 0])


def diverges(communicator: Communicator) -> str:
    """The third batch has a number on rank 1 alone that is none."""
    batches = stream([4, 4, 4, 4], communicator.rank)
    if communicator.rank == 1:
        batches[2][0][1, 1] = float("nan")
    model = nn.Linear(3, 2)
    trainer = DistributedTrainer(model, "sgd", nn.MSELoss(), communicator=communicator)
    try:
        trainer.train_epoch(batches)
    except Diverged as error:
        return f"{error} after {trainer.step.gradient_steps} steps"
    return "went on"


class Listening(Communicator):
    """Notes whether this rank's own gradients are finite before they are reduced."""

    def __init__(self, inner: Communicator) -> None:
        self.inner, self.transport, self.rank, self.size = inner, inner.transport, inner.rank, inner.size
        self.finite: list[bool] = []

    def all_reduce_(self, tensor, op="sum", name="value"):  # type: ignore[no-untyped-def]
        if name == "gradients":
            self.finite.append(bool(torch.isfinite(tensor).all()))
        return self.inner.all_reduce_(tensor, op, name)

    def broadcast_(self, tensor, root=0):  # type: ignore[no-untyped-def]
        return self.inner.broadcast_(tensor, root)

    def gather_objects(self, value):  # type: ignore[no-untyped-def]
        return self.inner.gather_objects(value)

    def broadcast_object(self, value, root=0):  # type: ignore[no-untyped-def]
        return self.inner.broadcast_object(value, root)


def one_overflows(communicator: Communicator) -> Any:
    """fp16: the second of three batches overflows in the backward pass of rank 1, at the scale that it starts with."""
    torch.manual_seed(2)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    listening = Listening(communicator)
    trainer = DistributedTrainer(model, optimizer, nn.MSELoss(), communicator=listening, precision="fp16")
    batches = [(x * 0.01, y * 0.01) for x, y in stream([4, 4, 4], communicator.rank)]
    if communicator.rank == 1:
        batches[1][0][0] = 1000.0
    seen = []

    def look(step: int) -> None:
        seen.append((trainer.precision.scale, parameters(model)))

    trained = trainer.train_epoch(batches, before_step=look)
    look(3)
    return listening.finite, seen, trained, trainer.step.gradient_steps, trainer.step.skipped_steps


def disagrees(communicator: Communicator) -> Any:
    """What `check_equal` says of equal parameters, and of those that differ in the last bit of one number on rank 1."""
    parameters = torch.linspace(-1, 1, 1001)
    check_equal(communicator, parameters)
    if communicator.rank == 1:
        parameters.view(torch.int32)[500:501].bitwise_xor_(1)
    try:
        check_equal(communicator, parameters)
    except RanksDisagree as error:
        return str(error)
    return "equal"


def exchanged(communicator: Communicator) -> Any:
    """Rank 1 has the same numbers in another order: sums of bits alone would not see it."""
    parameters = torch.arange(10.0)
    if communicator.rank == 1:
        parameters = parameters.flip(0).contiguous()
    try:
        check_equal(communicator, parameters)
    except RanksDisagree:
        return "disagree"
    return "equal"


def drifts_apart(communicator: Communicator) -> str:
    """A rank that changes its parameters by itself is found at the end of the epoch, by all."""
    model = nn.Linear(3, 2)
    trainer = DistributedTrainer(model, "sgd", nn.MSELoss(), communicator=communicator)
    if communicator.rank == 1:
        with torch.no_grad():
            model.bias += 1e-6
    try:
        trainer.train_epoch(stream([4], 0))
    except RanksDisagree:
        return "disagree"
    return "equal"


ALL: list[Callable[[Communicator], Any]] = [
    starts_from_rank_0,
    streams,
    local_batch_norm,
    tests_exactly,
    diverges,
    one_overflows,
    disagrees,
    exchanged,
    drifts_apart,
]

if __name__ == "__main__":
    world, communicator = join()
    give({each.__name__: each(communicator) for each in ALL})
    world.stop()
