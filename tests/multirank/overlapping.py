"""A rank that trains with and without an overlap of reduce and backward pass, and gives what came of both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from harness.distributed.arena import Arena
from harness.distributed.overlap import SMALLEST, Overlap, overlap_where_it_pays
from harness.distributed.sync import allreduce
from harness.distributed.transports.base import Communicator
from harness.schema import PrecisionSettings
from harness.training.distributed_trainer import DistributedTrainer
from harness.training.precision import Precision
from harness.training.step import Step
from tests.multirank.launch import give, join
from tests.multirank.modules import CASES, EPOCHS, everything, make

STEPS, RATE = 4, 0.1


class Declared(nn.Module):
    """Declared in another order than it is called in; `aside` is called on rank 1 alone, `never` on none."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.last = nn.Linear(8, 2)
        self.never = nn.Linear(8, 8)
        self.aside = nn.Linear(8, 8)
        self.first = nn.Linear(4, 8)
        self.middle = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.middle(torch.tanh(self.first(x))))
        return self.last(torch.tanh(self.aside(x)) if self.rank == 1 else x)


class Twice(nn.Module):
    """Checkpointed in the old way, each call of the shared layer sends its gradient by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for _ in range(2):
            x = checkpoint(lambda x: torch.tanh(self.shared(x)), x, use_reentrant=True)
        return self.last(x)


def small_buckets(arena: Arena, communicator: Communicator) -> Overlap:
    return Overlap(arena, communicator, bucket=30)


@contextmanager
def overlapping() -> Iterator[None]:
    with mock.patch.object(allreduce, "overlap_where_it_pays", small_buckets):
        yield


def train(step: Step, weights: list[list[float]]) -> dict[str, Any]:
    """STEPS steps; `weights` of this rank in each of them. 0.0 means no samples, None a backward pass of no weight."""
    rank, inputs = step.communicator.rank, torch.Generator().manual_seed(step.communicator.rank)
    gradients, statistics, early = [], [], []
    for number in range(STEPS):
        x = torch.randn(5, 4, generator=inputs)

        def compute() -> tuple[torch.Tensor, torch.Tensor]:
            loss = step.module(x).float().square().mean()
            return loss, torch.stack([loss.detach(), torch.tensor(float(rank))])

        weight = weights[number][rank % len(weights[number])]
        step.fill(compute if weight or number % 2 else None, weight)
        early.append(step.sync.overlap.sent if step.sync.overlap is not None else None)
        statistics.append(step.reduce().clone())
        gradients.append(step.arena.gradients.clone())
        step.apply()
    return {
        "gradients": gradients,
        "statistics": statistics,
        "early": early,
        "parameters": step.arena.parameters.clone(),
        "buckets": len(step.sync.overlap.buckets) if step.sync.overlap is not None else None,
        "order": step.sync.overlap.order if step.sync.overlap is not None else None,
        "unused": [name for name, parameter in step.module.named_parameters() if parameter.grad is None],
    }


def make_step(module: nn.Module, communicator: Communicator, kind: str = "fp32", tracks_use: bool = False) -> Step:
    precision = Precision(PrecisionSettings(kind=kind), torch.device("cpu"))
    return Step(
        module, lambda arena: torch.optim.SGD(module.parameters(), lr=RATE), communicator, precision, 2, 1.0, tracks_use
    )


def in_both_ways(communicator: Communicator, scenario: str) -> list[dict[str, Any]]:
    results = []
    for overlaps in (False, True):
        torch.manual_seed(3)
        weights = [[0.25, 0.75]] * STEPS
        if scenario == "a rank without samples":
            weights = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.25, 0.75]]
        module = Twice() if scenario == "gradients in parts" else Declared(communicator.rank)
        kind = "fp16" if scenario == "fp16" else "fp32"
        with overlapping() if overlaps else mock.MagicMock():
            step = make_step(module, communicator, kind, tracks_use=scenario == "uses are tracked")
        results.append(train(step, weights))
        step.reduce_at_once()
    return results


SCENARIOS = ["plain", "a rank without samples", "uses are tracked", "fp16", "gradients in parts"]


def trained_cases(communicator: Communicator) -> dict[str, Any]:
    found = {}
    for name in CASES:
        case = make(name, shuffle=False)
        with overlapping():
            own = DistributedTrainer(case.model, case.optimizer, case.loss, communicator=communicator)
            trained = [own.train_epoch(case.loader) for _ in range(EPOCHS)]
        assert own.step.sync.overlap is not None
        found[name] = everything(case.model), trained, own.test_epoch(case.loader)
        own.step.reduce_at_once()
    return found


def large(communicator: Communicator) -> dict[str, Any]:
    """As runs choose: by size, and by whether the ranks are on several hosts."""
    chosen, gradients = {}, {}
    for hosts in ("one host", "several hosts"):
        name = f"host-{communicator.rank}" if hosts == "several hosts" else "host"
        for numbers in (SMALLEST - 1, SMALLEST):
            with mock.patch.dict(os.environ, SLURMD_NODENAME=name):
                own = overlap_where_it_pays(Arena(nn.ParameterList([torch.zeros(numbers)])), communicator)
            chosen[hosts, numbers] = own is not None
            if own is not None:
                own.close()
        torch.manual_seed(4)
        module = nn.Sequential(*(nn.Linear(1300, 1300) for _ in range(3)), nn.Linear(1300, 2))
        with mock.patch.dict(os.environ, SLURMD_NODENAME=name):
            step = make_step(module, communicator)
        x = torch.randn(3, 1300, generator=torch.Generator().manual_seed(communicator.rank))
        for _ in range(2):
            step.gradient(lambda: (module(x).square().mean(), torch.zeros(2)), 1 / communicator.size)
        gradients[hosts] = step.arena.gradients.double().norm().item(), step.arena.gradients[::997].clone()
        step.reduce_at_once()
    return {"chosen": chosen, "gradients": gradients}


if __name__ == "__main__":
    world, communicator = join()
    found: dict[str, Any] = {scenario: in_both_ways(communicator, scenario) for scenario in SCENARIOS}
    give({**found, "cases": trained_cases(communicator), "large": large(communicator)})
    world.stop()
