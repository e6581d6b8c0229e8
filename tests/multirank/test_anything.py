"""Whatever people bring to DistributedTrainer, one rank, two and three learn what plain torch learns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness import LossSum
from harness.distributed.transports.base import Alone
from tests.multirank.anything import CASES, EPOCHS, REFUSED, Case, make, rows, state_of, step_by_step, train
from tests.multirank.launch import WAYS, run_ranks

SCRIPT = Path(__file__).with_name("anything.py")


@pytest.fixture(scope="module", params=[(2, "horovod-mpi"), (3, "mpi")], ids=lambda launch: f"{launch[0]}-{launch[1]}")
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    ranks, way = request.param
    launcher, sync_path = WAYS[way]
    return run_ranks(ranks, launcher, SCRIPT, tmp_path_factory.mktemp(way), sync_path=sync_path, seconds=300).given


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    return {name: train(name, Alone()) for name in CASES}


def outputs_and_targets(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, (list, tuple)) and not isinstance(batch, nn.utils.rnn.PackedSequence):
        return model(*batch[:-1]), batch[-1]
    return model(**batch) if isinstance(batch, Mapping) else model(batch), batch


def loss_of(case: Case, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum and count, by torch alone."""
    loss = case.loss(*outputs_and_targets(case.model, batch))
    if isinstance(loss, LossSum):
        return loss.total, torch.as_tensor(loss.count)
    return loss.mean(), torch.tensor(1.0)


def plain(case: Case) -> nn.Module:
    """A loop as everybody writes it; the model's modes are as they are, a batch of None is passed over."""
    optimizer = case.optimizer(case.model.parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    for _ in range(EPOCHS):
        for batch in case.loader:
            if batch is None:
                continue
            optimizer.zero_grad()
            total, count = loss_of(case, batch)
            (total / count).backward()
            optimizer.step()
        scheduler.step()
    return case.model


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda text: f"{name}: {text}")


# several batches a step are compared with whole batches below
@pytest.mark.parametrize("name", [name for name in CASES if name != "several batches a step"])
def test_one_rank_learns_what_plain_torch_learns(name: str, alone: dict[str, dict[str, Any]]) -> None:
    assert_close(alone[name]["state"], state_of(plain(make(name))))


@pytest.mark.parametrize("name", CASES)
def test_ranks_learn_what_one_learns(name: str, given: tuple[Any, ...], alone: dict[str, dict[str, Any]]) -> None:
    expected = alone[name]
    for rank in given:
        found = rank["trained"][name]
        assert_close(found["state"], expected["state"])
        for epoch, one in zip(found["trained"], expected["trained"]):
            assert (epoch.samples, epoch.steps, epoch.skipped) == (one.samples, one.steps, one.skipped)
            assert epoch.loss == pytest.approx(one.loss, rel=1e-4, nan_ok=True)
        assert found["tested"].samples == expected["tested"].samples
        assert found["tested"].loss == pytest.approx(expected["tested"].loss, rel=1e-4)
        assert found["steps"] == expected["steps"] == sum(epoch.steps for epoch in expected["trained"])
        assert found["trained"] == given[0]["trained"][name]["trained"]
        assert not [line for line in found["told"] if "lr_scheduler.step" in line]


def test_samples_are_those_that_the_collate_function_left(alone: dict[str, dict[str, Any]]) -> None:
    for name in ("samples left out", "shares left out", "shares left out as None"):
        assert {epoch.samples for epoch in alone[name]["trained"]} == {make(name).samples}


def test_random_generators_are_as_if_nothing_had_been_looked_at(alone: dict[str, dict[str, Any]]) -> None:
    torch.manual_seed(3)
    assert alone["class weights"]["random"][0] == torch.rand(1).item()


def test_several_batches_are_one_step_as_of_one_batch(alone: dict[str, dict[str, Any]]) -> None:
    case = make("several batches a step")
    inputs, targets = case.loader.dataset.tensors  # type: ignore[attr-defined]
    case.loader = [(inputs[start : start + 32], targets[start : start + 32]) for start in range(0, len(targets), 32)]
    found = alone["several batches a step"]
    assert_close(found["state"], state_of(plain(case)))
    assert found["steps"] == 2 * EPOCHS


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_by_all_ranks_and_leaves_no_trace(name: str, given: tuple[Any, ...]) -> None:
    for rank in given:
        assert REFUSED[name][1] in rank["refused"][name]["told"]
        assert rank["refused"][name]["untouched"]


def test_a_batch_at_a_time_is_an_epoch(given: tuple[Any, ...]) -> None:
    expected = step_by_step(Alone())
    for rank in given:
        assert rank["step by step"]["losses"] == pytest.approx(expected["losses"], rel=1e-4)
        for found, state in zip(rank["step by step"]["states"], expected["states"]):
            assert_close(found, state)
    torch.manual_seed(6)
    x, y = rows(40)
    model = nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for start in range(0, 40, 8):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[start : start + 8]), y[start : start + 8]).backward()
        optimizer.step()
    assert_close(expected["states"][0], state_of(model))
