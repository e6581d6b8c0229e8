"""Reduced while the backward pass runs, gradients are those that one reduce after it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.distributed.overlap import SMALLEST
from harness.distributed.transports.base import Alone
from harness.training.distributed_trainer import DistributedTrainer
from tests.conftest import slow
from tests.multirank.launch import WAYS, run_ranks
from tests.multirank.modules import CASES, EPOCHS, everything, make
from tests.multirank.overlapping import SCENARIOS

SCRIPT = Path(__file__).with_name("overlapping.py")
# two ways to send beside the backward pass, Horovod's and MPI's; two ranks are equal to the bit, three sum in an order
LAUNCHES = [(2, "mpi"), (2, "horovod-mpi"), (3, "horovod-gloo"), (3, "mpi")]


@pytest.fixture(
    scope="module",
    params=[LAUNCHES[0], *map(slow, LAUNCHES[1:])],
    ids=lambda launch: f"{launch[0]}-{launch[1]}",
)
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    ranks, way = request.param
    launcher, sync_path = WAYS[way]
    return run_ranks(ranks, launcher, SCRIPT, tmp_path_factory.mktemp(way), sync_path=sync_path).given


def same(one: torch.Tensor, other: torch.Tensor, ranks: int) -> bool:
    """To the bit with two ranks, where there is one order to sum in."""
    return torch.equal(one, other) if ranks == 2 else bool((one - other).norm() <= 1e-6 * other.norm())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_gradients_statistics_and_parameters_are_those_of_one_reduce(scenario: str, given: tuple[Any, ...]) -> None:
    for rank in given:
        at_once, overlapped = rank[scenario]
        assert at_once["early"] == [None] * len(at_once["early"]) and overlapped["buckets"] >= 2
        for name in ("gradients", "statistics"):
            for one, other in zip(overlapped[name], at_once[name]):
                assert other.any() and same(one, other, len(given))
        assert same(overlapped["parameters"], at_once["parameters"], len(given))
        assert torch.equal(overlapped["parameters"], given[0][scenario][1]["parameters"]), "ranks are equal to the bit"
        assert overlapped["unused"] == at_once["unused"]


def test_a_parameter_that_no_rank_uses_has_no_gradient(given: tuple[Any, ...]) -> None:
    for rank in given:
        assert rank["uses are tracked"][1]["unused"] == ["never.weight", "never.bias"]


def test_finished_buckets_are_under_way_before_the_backward_pass_ends(given: tuple[Any, ...]) -> None:
    """From the second step on; on rank 0, which never uses one of the layers, up to that layer's bucket."""
    for number, rank in enumerate(given):
        for scenario in ("plain", "uses are tracked", "fp16"):
            early = rank[scenario][1]["early"]
            assert early[0] == 0 and all(1 <= sent < rank[scenario][1]["buckets"] for sent in early[1:])
    idle = [rank["a rank without samples"][1]["early"] for rank in given]
    assert idle[1][1] == 0 and idle[1][2] > 0 and idle[0][1] > 0 and idle[0][2] == 0


def test_buckets_go_in_the_order_in_which_they_are_completed_not_declared(given: tuple[Any, ...]) -> None:
    """Declared last, aside, first, middle: of the buckets from the end, `last` is the one completed first."""
    for rank in given:
        overlapped = rank["plain"][1]
        assert overlapped["order"] == given[0]["plain"][1]["order"]
        assert sorted(overlapped["order"]) == list(range(overlapped["buckets"]))
        assert overlapped["order"][0] == overlapped["buckets"] - 1


def test_gradients_that_come_in_parts_wait_for_the_end(given: tuple[Any, ...]) -> None:
    for rank in given:
        assert rank["gradients in parts"][1]["early"] == [0] * 4


@pytest.mark.parametrize("name", CASES)
def test_ranks_with_an_overlap_train_as_one_process_does(name: str, given: tuple[Any, ...]) -> None:
    case = make(name, shuffle=False)
    alone = DistributedTrainer(case.model, case.optimizer, case.loss, communicator=Alone())
    trained = [alone.train_epoch(case.loader) for _ in range(EPOCHS)]
    tested = alone.test_epoch(case.loader)
    expected = torch.cat([tensor.double().flatten() for tensor in everything(case.model).values()])
    for state, their_epochs, their_test in (rank["cases"][name] for rank in given):
        found = torch.cat([state[name].double().flatten() for name in everything(case.model)])
        assert (found - expected).norm() <= 1e-5 * expected.norm()
        assert [epoch.loss for epoch in their_epochs] == pytest.approx([epoch.loss for epoch in trained], rel=1e-5)
        assert (their_test.samples, their_test.loss) == (tested.samples, pytest.approx(tested.loss, rel=1e-5))


def test_large_arenas_between_hosts_are_overlapped_and_no_others(given: tuple[Any, ...]) -> None:
    for rank in given:
        assert rank["large"]["chosen"] == {
            ("one host", SMALLEST - 1): False,
            ("one host", SMALLEST): False,
            ("several hosts", SMALLEST - 1): False,
            ("several hosts", SMALLEST): True,
        }
        (norm, some), (their_norm, their_some) = rank["large"]["gradients"].values()
        assert norm == pytest.approx(their_norm, rel=1e-6) and same(some, their_some, len(given))


FAILS = """
import torch
from torch import nn
from tests.multirank.launch import give, join
from tests.multirank.overlapping import make_step, overlapping

class Broken:
    def Iallreduce(self, *_):
        raise OSError("the network is gone")

world, communicator = join()
module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
with overlapping():
    step = make_step(module, communicator)
def one_step():
    step.gradient(lambda: (module(torch.ones(3, 4)).square().mean(), torch.zeros(2)), 0.5)
one_step()
give("one step")
if communicator.rank == 1:
    communicator.channel.comm = Broken()
one_step()
give("two steps")
"""


def test_what_fails_beside_the_backward_pass_is_told_and_ends_the_run(tmp_path: Path) -> None:
    ranks = run_ranks(2, "mpirun", FAILS, tmp_path, sync_path="mpi", fails=True, seconds=60)
    assert ranks.given == ("one step", "one step")
    assert ranks.outcome.exit_code not in (0, None)
    assert "the reduce beside the backward pass failed: the network is gone" in ranks.output


CHANGES = """
import torch
from torch import nn
from tests.multirank.launch import give, join
from tests.multirank.overlapping import Twice, make_step, overlapping

world, communicator = join()
module = Twice()
with overlapping():
    step = make_step(module, communicator)
calls = [module.first, module.last]
def loss():
    x = torch.ones(3, 4, requires_grad=True)
    y = module.last(module.shared(module.first(x))) if step.gradient_steps < 2 else module(x)
    return y.square().mean(), torch.zeros(2)
for number in range(3):
    give(number)
    step.gradient(loss, 0.5)
    step.apply()
give("to the end")
"""


def test_a_gradient_that_comes_again_after_it_was_sent_is_an_error(tmp_path: Path) -> None:
    ranks = run_ranks(2, "mpirun", CHANGES, tmp_path, sync_path="mpi", fails=True, seconds=60)
    assert 2 in ranks.given and "to the end" not in ranks.given
    assert "came in several parts" in ranks.output
