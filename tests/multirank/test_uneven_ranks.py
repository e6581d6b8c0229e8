"""Ranks that are not alike decide together: what they start from, when data ends, what is skipped, what is broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import slow
from tests.multirank.launch import WAYS, run_ranks
from tests.multirank.uneven_ranks import STREAMS, make_model, parameters, stream

SCRIPT = Path(__file__).with_name("uneven_ranks.py")


@pytest.fixture(scope="module", params=["horovod-mpi", slow("mpi"), slow("horovod-gloo")])
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    launcher, sync_path = WAYS[request.param]
    return list(run_ranks(2, launcher, SCRIPT, tmp_path_factory.mktemp("ranks"), sync_path=sync_path).given)


def test_parameters_and_the_optimizers_state_are_rank_0s_at_the_start(given):
    (ours, momentum, lr), (theirs, their_momentum, their_lr) = (rank["starts_from_rank_0"] for rank in given)
    assert torch.equal(ours, theirs)
    assert all(torch.equal(one, other) and one.any() for one, other in zip(momentum, their_momentum))
    assert lr == their_lr == 0.1


@pytest.mark.parametrize("name", STREAMS)
def test_streams_of_unequal_length_train_as_their_union_does(name, given):
    parts = [stream(sizes, rank) for rank, sizes in enumerate(STREAMS[name])]
    model, losses, samples = make_model(), [], []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(max(map(len, parts))):
        present = [part[number] for part in parts if number < len(part)]
        inputs, targets = (torch.cat(column) for column in zip(*present))
        if not len(inputs):
            continue
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        samples.append(len(inputs))
    model.eval()
    inputs, targets = (torch.cat(column) for column in zip(*(batch for part in parts for batch in part)))
    test_loss = nn.functional.mse_loss(model(inputs), targets).item()
    for trained, found, tested in (rank["streams"][name] for rank in given):
        assert (found - parameters(model)).norm() <= 1e-5 * parameters(model).norm()
        assert (trained.samples, trained.steps) == (sum(samples), len(samples))
        expected = sum(loss * count for loss, count in zip(losses, samples)) / sum(samples)
        assert trained.loss == pytest.approx(expected, rel=1e-5)
        assert (tested.samples, tested.loss) == (sum(samples), pytest.approx(test_loss, rel=1e-5))


def test_local_batch_norm_averages_running_statistics_by_samples_and_other_buffers_are_rank_0s(given):
    inputs, _ = stream([10], 0)[0]
    shares = [[inputs[0:3], inputs[5:8]], [inputs[3:5], inputs[8:10]]]
    layers = []
    for share in shares:
        layer = nn.BatchNorm1d(3)
        for part in share:
            layer(part)
        layers.append(layer)
    for rank in given:
        found = rank["local_batch_norm"]
        for name in ("running_mean", "running_var"):
            expected = (6 * getattr(layers[0], name) + 4 * getattr(layers[1], name)) / 10
            torch.testing.assert_close(found[f"0.{name}"], expected)
        assert found["counter"] == 10


def test_tests_are_exact_where_a_rank_has_no_sample_and_batch_norm_looks_at_the_batch(given):
    torch.manual_seed(3)
    layers = nn.Conv1d(1, 2, 2), nn.BatchNorm1d(2, track_running_stats=False), nn.Flatten(), nn.Linear(4, 2)
    inputs, targets = torch.randn(9, 1, 3), torch.randn(9, 2)
    with torch.no_grad():
        outputs = torch.cat([nn.Sequential(*layers)(part) for part in inputs.split(4)])
    for rank in given:
        tested = rank["tests_exactly"]
        assert tested.samples == 9
        assert tested.loss == pytest.approx(float(nn.functional.mse_loss(outputs, targets)), rel=1e-5)
        assert tested.metric == pytest.approx(float(outputs[:, 0].mean()), rel=1e-4)


def test_a_number_that_is_none_on_one_rank_is_divergence_on_both_at_the_same_step(given):
    assert [rank["diverges"] for rank in given] == ["non-finite loss after 2 steps"] * 2


def test_when_one_rank_overflows_both_skip_the_scale_halves_and_weights_stay_finite_and_equal(given):
    finite = [rank["one_overflows"][0] for rank in given]
    assert finite == [[True, True, True], [True, False, True]]  # rank 1 alone overflowed, in the second step
    for _, seen, trained, taken, skipped in (rank["one_overflows"] for rank in given):
        scales, weights = zip(*seen)
        assert scales == (2.0**16, 2.0**16, 2.0**15, 2.0**15)
        assert torch.equal(weights[1], weights[2])
        assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[2], weights[3])
        assert all(each.isfinite().all() for each in weights)
        assert (trained.steps, trained.skipped, taken, skipped) == (2, 1, 2, 1)
    ours, theirs = (rank["one_overflows"][1][-1][1] for rank in given)
    assert torch.equal(ours, theirs)


def test_one_different_bit_is_found_and_told_by_both_ranks(given):
    for rank in given:
        assert "rank 1 differ" in rank["disagrees"]
        assert rank["exchanged"] == rank["drifts_apart"] == "disagree"


RAISES = """
import torch
from torch import nn
from harness import DistributedTrainer
from tests.multirank.launch import give

def loss(outputs, targets):
    if trainer.communicator.rank == 1 and trainer.step.gradient_steps == 2:
        raise ValueError("this rank has had enough")
    return nn.functional.mse_loss(outputs, targets)

model = nn.Linear(2, 1)
trainer = DistributedTrainer(model, "sgd", loss)
give((trainer.communicator.transport, trainer.communicator.size))
trainer.train_epoch([(torch.ones(4, 2), torch.ones(4, 1))] * 100)
give("got to the end")
"""


@pytest.mark.parametrize("launcher", ["horovodrun", "horovodrun-gloo", "mpirun"])
def test_ranks_are_found_by_themselves_and_an_exception_in_one_ends_all(launcher, tmp_path):
    ranks = run_ranks(2, launcher, RAISES, tmp_path, fails=True, seconds=60)
    assert ranks.outcome.exit_code not in (0, None)
    path, size = ranks.given[0]
    assert ranks.given == ((path, 2), (path, 2))
    assert path == "horovod" if launcher == "horovodrun-gloo" else path in ("horovod", "mpi")
    assert "this rank has had enough" in ranks.outcome.describe()
