"""A rank that fits a line by each way to agree, and gives its weights: before they are settled, after, and where it was
put back half-way."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.distributed.agreement import check_equal
from harness.distributed.sync import make_synchronizer
from harness.distributed.world import World
from harness.lifecycle.checkpoints.serialization import as_tensors
from harness.schema import CompressionSettings, OptimizerSettings, PrecisionSettings, SyncSettings
from harness.training.optimizers import make_flat_optimizer
from harness.training.precision import Precision
from harness.training.step import Step
from tests.multirank.launch import give, join

INPUTS, SAMPLES = 5, 8


def batch(rank: int, update: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 (8, 5) and (8,): a rank's samples of an update."""
    rng = np.random.default_rng([rank, update])
    x = rng.normal(size=(SAMPLES, INPUTS)).astype(np.float32)
    return x, (x @ np.arange(INPUTS) + rng.normal(size=SAMPLES)).astype(np.float32)


def fitted(world: World, case: dict[str, Any], updates: int) -> dict[str, Any]:
    group = world.mesh.data
    module = nn.Linear(INPUTS, 1, bias=False)
    nn.init.constant_(module.weight, 0.5)
    synchronizer = make_synchronizer(SyncSettings(**case["sync"]), CompressionSettings(), world.mesh)
    optimizer = OptimizerSettings(name=case.get("optimizer", "sgd"), lr=case.get("lr", 0.05), momentum=0.0)
    step = Step(
        module,
        lambda arena: make_flat_optimizer(optimizer, arena.flat),
        group,
        Precision(PrecisionSettings(), torch.device("cpu")),
        statistics=1,
        synchronizer=synchronizer,
    )

    def go(first: int, last: int) -> torch.Tensor:
        for update in range(first, last):
            x, y = map(torch.from_numpy, batch(group.rank, update))

            def loss() -> tuple[torch.Tensor, torch.Tensor]:
                squared = (module(x)[:, 0] - y).square().mean()
                return squared, squared.detach()[None]

            step.gradient(loss, 1 / group.size)
            step.apply()
        return step.arena.parameters.clone()

    go(0, updates // 2)
    half, moments = as_tensors(synchronizer.rank_state()), as_tensors(step.optimizer.state_dict())
    reached = go(updates // 2, updates)
    if half:
        step.optimizer.load_state_dict(moments)
        synchronizer.load_rank_state(half)
        assert torch.equal(go(updates // 2, updates), reached), case
    synchronizer.settle()
    check_equal(group, step.arena.parameters)
    return {"own": reached.numpy(), "settled": step.arena.parameters.numpy().copy(), "tail": float(step.arena.tail[0])}


if __name__ == "__main__":
    world, communicator = join()
    cases, updates = json.loads(sys.argv[1])
    give([fitted(world, case, updates) for case in cases])
    world.stop()
