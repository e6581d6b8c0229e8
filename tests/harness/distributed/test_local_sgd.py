"""Local SGD where other ranks wrote the checkpoint, and between updates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harness.config import load_run_config
from harness.distributed.arena import Arena
from harness.distributed.mesh import mesh_on_one_channel
from harness.distributed.sync.local_sgd import LocalSGD
from harness.distributed.transports.base import Alone
from harness.errors import BadInput

DILOCO = {"every": 2, "outer_lr": 0.7, "outer_momentum": 0.9}


def test_what_other_ranks_wrote_is_where_the_outer_step_begins() -> None:
    synchronizer = LocalSGD(mesh_on_one_channel(Alone()), **DILOCO)
    arena = Arena(nn.Linear(2, 1, bias=False))
    sync = synchronizer.attach(arena, "policy")
    arena.parameters.fill_(10.0)  # a checkpoint is loaded
    line = synchronizer.load_rank_state(None)
    assert line is not None and line.startswith("other ranks wrote the checkpoint")
    for _ in range(2):
        sync.step(lambda: arena.parameters.add_(1.0))
    # Δ = -2, v = -2: x = 10 - 0.7 (-2 + 0.9 * -2)
    torch.testing.assert_close(arena.parameters, torch.full((2,), 12.66))


def test_an_evaluation_and_a_checkpoint_change_nothing() -> None:
    synchronizer = LocalSGD(mesh_on_one_channel(Alone()), **DILOCO, delay=1)
    arena = Arena(nn.Linear(2, 1, bias=False))
    sync = synchronizer.attach(arena, "policy")
    for update in range(7):
        sync.step(lambda: arena.parameters.add_(1.0))
        before = arena.parameters.clone()
        with synchronizer.settled():
            pass
        with synchronizer.settled() as state:
            assert torch.equal(state["policy"]["parameters"], before)
        assert torch.equal(arena.parameters, before), update
    undisturbed = LocalSGD(mesh_on_one_channel(Alone()), **DILOCO, delay=1)
    other = Arena(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        other.parameters.copy_(arena.parameters)
    alone = undisturbed.attach(other, "policy")
    undisturbed.load_rank_state(synchronizer.rank_state())
    for each, own in ((sync, arena), (alone, other)):
        each.step(lambda: own.parameters.add_(1.0))
    assert torch.equal(arena.parameters, other.parameters)


def test_fragments_have_a_turn_each() -> None:
    with pytest.raises(BadInput, match=r"sync.local_sgd.fragments must be <= sync.local_sgd.every = 4"):
        load_run_config("ppo-cartpole", ["sync.local_sgd.every=4", "sync.local_sgd.fragments=5"])
