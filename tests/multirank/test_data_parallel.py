"""N ranks train any module as one process does, and as plain PyTorch does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.distributed.transports.base import Alone
from harness.training.distributed_trainer import DistributedTrainer
from tests.conftest import slow
from tests.multirank.launch import WAYS, run_ranks
from tests.multirank.modules import CASES, EPOCHS, everything, make

SCRIPT = Path(__file__).with_name("modules.py")
LAUNCHES = [(2, way) for way in WAYS] + [(3, "mpi")]
RARELY = [(2, "mpi"), (2, "horovod-gloo")]


@pytest.fixture(
    scope="module",
    params=[slow(launch) if launch in RARELY else launch for launch in LAUNCHES],
    ids=lambda launch: f"{launch[0]}-{launch[1]}",
)
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    ranks, way = request.param
    launcher, sync_path = WAYS[way]
    return run_ranks(ranks, launcher, SCRIPT, tmp_path_factory.mktemp(way), sync_path=sync_path).given


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Relative, in the 2-norm of all parameters and buffers."""
    flat = [torch.cat([state[name].double().flatten() for name in expected]) for state in (found, expected)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
@pytest.mark.parametrize("name", CASES)
def test_ranks_train_as_one_process_does(name: str, shuffle: bool, given: tuple[Any, ...]) -> None:
    case = make(name, shuffle)
    trainer = DistributedTrainer(case.model, case.optimizer, case.loss, communicator=Alone())
    trained = [trainer.train_epoch(case.loader) for _ in range(EPOCHS)]
    tested = trainer.test_epoch(case.loader)
    for state, their_epochs, their_test in (rank[name, shuffle] for rank in given):
        assert distance(state, everything(case.model)) <= 1e-5
        assert [(epoch.samples, epoch.steps, epoch.skipped) for epoch in their_epochs] == [
            (epoch.samples, epoch.steps, 0) for epoch in trained
        ]
        assert [epoch.loss for epoch in their_epochs] == pytest.approx([epoch.loss for epoch in trained], rel=1e-5)
        assert (their_test.samples, their_test.loss) == (tested.samples, pytest.approx(tested.loss, rel=1e-5))


@pytest.mark.parametrize("name", CASES)
def test_ranks_train_as_plain_pytorch_does(name: str, given: tuple[Any, ...]) -> None:
    case = make(name, shuffle=False)
    case.model.train()
    for _ in range(EPOCHS):
        for inputs, targets in case.loader:
            case.optimizer.zero_grad()
            case.loss(case.model(inputs), targets).backward()
            case.optimizer.step()
    for rank in given:
        assert distance(rank[name, False][0], everything(case.model)) <= 1e-5


@pytest.mark.parametrize("name", CASES)
def test_all_ranks_hold_the_same_bits_and_tell_the_same(name: str, given: tuple[Any, ...]) -> None:
    first = given[0][name, True]
    for state, trained, tested in (rank[name, True] for rank in given[1:]):
        assert all(torch.equal(state[key], first[0][key]) for key in first[0])
        assert (trained, tested) == first[1:]
