"""N ranks are the same experiment as one: the same rollouts, the same parameters, bit-equal on all ranks.

Not every config by every way on every number of ranks: each way has two ranks or three, which are uneven shares; what
a config adds (normalisation, a stop on KL, time limits, several rollouts an iteration) lies above the ways, and is
tried by the one of a kind (Horovod's operations, MPI's) that it asks most of.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import slow
from tests.multirank.launch import WAYS, run_ranks

SCRIPT = Path(__file__).with_name("recorded_run.py")
TINY = ["env.count=4", "algorithm.minibatch_size=32", "evaluation.count=1", "evaluation.episodes=3"]
CARTPOLE = ["ppo-cartpole", *TINY, "evaluation.final_episodes=3"]
NORMALIZED = ["env.normalize_observations=true", "env.normalize_rewards=true"]
# 4 epochs: after 20 a ratio at the edge of the clip may fall to either side of it by rounding alone
LIMITED = [*CARTPOLE, "env.kwargs.max_episode_steps=10", "algorithm.epochs=4", *NORMALIZED]
KL_STOP = [*CARTPOLE, "algorithm.target_kl=0.002", "optimizer.lr=0.01"]
PENDULUM = ["ppo-pendulum", *TINY, "evaluation.final_episodes=3", "algorithm.rollout_steps=30", "algorithm.epochs=2"]
PENDULUM += NORMALIZED  # with gSDE, whose noise matrices are held for 4 steps
SYNC = [*PENDULUM, "env.backend=sync"]
WORKERS = [*PENDULUM, "env.backend=workers", "env.workers=2", "env.double_buffer=on"]
# 128 rollouts of 2 steps, of which an iteration takes 32
A2C = ["a2c-acrobot", "env.count=4", "algorithm.rollout_steps=2", *TINY[2:], "evaluation.final_episodes=3"]
CONFIGS = {
    "cartpole": [*CARTPOLE, "run.steps=384"],
    "limited": [*LIMITED, "run.steps=384"],
    "kl": [*KL_STOP, "run.steps=384"],
    "a2c": [*A2C, "run.steps=1024"],
    "pendulum": [*PENDULUM, "run.steps=360"],
    "sync": [*SYNC, "run.steps=360"],
    "workers": [*WORKERS, "run.steps=360"],
    # 32 * 4 samples by 32: 4 minibatches, 4 epochs: 16 updates a rollout
    "two hundred updates": [*CARTPOLE, "algorithm.epochs=4", "run.steps=1664"],
}
Given = tuple[dict[str, Any], ...]


def train(ranks: int, way: str, folder: Path, *names: str) -> Given:
    """What each rank recorded of these configs, by name: all of them in one start of the ranks."""
    launcher, sync_path = WAYS[way]
    runs = {name: [str(folder / name), *CONFIGS[name]] for name in names}
    return run_ranks(ranks, launcher, SCRIPT, folder, json.dumps(runs), sync_path=sync_path, seconds=600).given


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one rank does, under mpirun too, so that it runs by the same script."""
    names = ("cartpole", "limited", "kl", "a2c", "pendulum", "sync")
    return train(1, "mpi", tmp_path_factory.mktemp("alone"), *names)[0]


@pytest.fixture(scope="module")
def three_by_mpi(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return train(3, "mpi", tmp_path_factory.mktemp("three"), "cartpole", "pendulum", "a2c")


@pytest.fixture(scope="module")
def two_by_horovod(tmp_path_factory: pytest.TempPathFactory) -> Given:
    names = ("cartpole", "limited", "kl", "two hundred updates")
    return train(2, "horovod-mpi", tmp_path_factory.mktemp("two"), *names)


def of(name: str, given: Given) -> tuple[Any, ...]:
    return tuple(rank[name] for rank in given)


def test_three_iterations_on_three_ranks_are_those_of_one(three_by_mpi: Given, alone: dict[str, Any]) -> None:
    assert_same(of("cartpole", three_by_mpi), alone["cartpole"])
    assert {rank["cartpole"]["sync_path"] for rank in three_by_mpi} == {"mpi"}


def test_three_iterations_on_two_ranks_by_horovod_are_those_of_one(
    two_by_horovod: Given, alone: dict[str, Any]
) -> None:
    assert_same(of("cartpole", two_by_horovod), alone["cartpole"])
    assert {rank["cartpole"]["sync_path"] for rank in two_by_horovod} == {"horovod"}


OTHER_WAYS = [(2, "horovod-gloo"), slow(3, "horovod-mpi"), slow(3, "horovod-gloo"), slow(2, "mpi")]


@pytest.mark.parametrize(("ranks", "way"), OTHER_WAYS)
def test_and_so_are_they_by_every_other_way(ranks: int, way: str, alone: dict[str, Any], tmp_path: Path) -> None:
    given = train(ranks, way, tmp_path, "cartpole", "two hundred updates")
    assert_same(of("cartpole", given), alone["cartpole"])
    assert_equal_to_the_bit(given)


def test_state_dependent_exploration_normalised_observations_and_uneven_minibatches_too(
    three_by_mpi: Given, alone: dict[str, Any]
) -> None:
    assert_same(of("pendulum", three_by_mpi), alone["pendulum"])


def test_environments_in_workers_that_step_by_halves_too(alone: dict[str, Any], tmp_path: Path) -> None:
    assert_same(of("workers", train(2, "mpi", tmp_path, "workers")), alone["sync"])


def test_short_rollouts_of_which_an_iteration_takes_several_too(three_by_mpi: Given, alone: dict[str, Any]) -> None:
    assert_same(of("a2c", three_by_mpi), alone["a2c"])
    assert three_by_mpi[0]["a2c"]["gradient_steps"] == 128


def test_time_limits_and_scaled_rewards_too(two_by_horovod: Given, alone: dict[str, Any]) -> None:
    assert_same(of("limited", two_by_horovod), alone["limited"])


def test_the_stop_on_kl_is_agreed(two_by_horovod: Given, alone: dict[str, Any]) -> None:
    given = of("kl", two_by_horovod)
    assert_same(given, alone["kl"])
    assert given[0]["gradient_steps"] == alone["kl"]["gradient_steps"] < 3 * 20 * 4, "it did stop"


def test_parameters_are_bit_equal_after_two_hundred_updates(two_by_horovod: Given) -> None:
    assert_equal_to_the_bit(two_by_horovod)


def assert_equal_to_the_bit(given: Given) -> None:
    first, *others = of("two hundred updates", given)
    assert first["status"] == "done"
    for other in others:
        assert first["parameters"].numpy().tobytes() == other["parameters"].numpy().tobytes()


def whole(given: tuple[Any, ...], iteration: int, name: str) -> torch.Tensor:
    """An array of one iteration, (steps, all environments, …): the ranks' shares side by side."""
    return torch.cat([rank["rollouts"][iteration][name].double() for rank in given], dim=1)


def assert_same(given: tuple[Any, ...], alone: dict[str, Any]) -> None:
    for iteration in range(3):
        for name in ("actions", "dones"):
            if alone["rollouts"][iteration][name].dtype != torch.float32 or name == "dones":
                assert torch.equal(whole(given, iteration, name), whole((alone,), iteration, name)), (iteration, name)
        for name in ("observations", "actions", "rewards", "values", "log_probs", "advantages", "returns"):
            ours, theirs = whole(given, iteration, name), whole((alone,), iteration, name)
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, msg=lambda m: f"{iteration} {name}: {m}")
    expected = alone["parameters"]
    for rank in given:
        assert (rank["parameters"] - expected).norm() <= 1e-5 * expected.norm()
