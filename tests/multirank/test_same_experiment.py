"""N ranks are the same experiment as one: the same rollouts, the same parameters, bit-equal on all ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

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


def whole(given: tuple[Any, ...], iteration: int, name: str) -> torch.Tensor:
    """An array of one iteration, (steps, all environments, …): the ranks' shares side by side."""
    return torch.cat([rank["rollouts"][iteration][name].double() for rank in given], dim=1)


def train(ranks: int, way: str, folder: Path, settings: list[str], steps: int) -> tuple[Any, ...]:
    launcher, sync_path = WAYS[way]
    preset, *overrides = settings
    arguments = [str(folder / "run"), preset, f"run.steps={steps}", *overrides]
    return run_ranks(ranks, launcher, SCRIPT, folder, *arguments, sync_path=sync_path, seconds=300).given


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, ...]]:
    """What one rank does, under mpirun too, so that it runs by the same script."""
    folder = tmp_path_factory.mktemp("alone")
    return {
        "cartpole": train(1, "mpi", folder / "cartpole", CARTPOLE, 3 * 32 * 4),
        "limited": train(1, "mpi", folder / "limited", LIMITED, 3 * 32 * 4),
        "kl": train(1, "mpi", folder / "kl", KL_STOP, 3 * 32 * 4),
        "a2c": train(1, "mpi", folder / "a2c", A2C, 4 * 256),
        "pendulum": train(1, "mpi", folder / "pendulum", PENDULUM, 3 * 30 * 4),
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ranks", [2, 3])
def test_three_iterations_on_more_ranks_are_those_of_one(
    ranks: int, way: str, alone: dict[str, tuple[Any, ...]], tmp_path: Path
) -> None:
    given = train(ranks, way, tmp_path, CARTPOLE, 3 * 32 * 4)
    assert_same(given, alone["cartpole"])
    assert {rank["sync_path"] for rank in given} == {WAYS[way][1]}


def test_state_dependent_exploration_normalised_observations_and_uneven_minibatches_too(
    alone: dict[str, tuple[Any, ...]], tmp_path: Path
) -> None:
    assert_same(train(3, "mpi", tmp_path, PENDULUM, 3 * 30 * 4), alone["pendulum"])


def test_environments_in_workers_that_step_by_halves_too(tmp_path: Path) -> None:
    expected = train(1, "mpi", tmp_path / "one", SYNC, 3 * 30 * 4)
    assert_same(train(2, "mpi", tmp_path / "two", WORKERS, 3 * 30 * 4), expected)


def test_short_rollouts_of_which_an_iteration_takes_several_too(
    alone: dict[str, tuple[Any, ...]], tmp_path: Path
) -> None:
    given = train(3, "mpi", tmp_path, A2C, 4 * 256)
    assert_same(given, alone["a2c"])
    assert given[0]["gradient_steps"] == 128


def test_time_limits_and_scaled_rewards_too(alone: dict[str, tuple[Any, ...]], tmp_path: Path) -> None:
    assert_same(train(3, "horovod-mpi", tmp_path, LIMITED, 3 * 32 * 4), alone["limited"])


def test_the_stop_on_kl_is_agreed(alone: dict[str, tuple[Any, ...]], tmp_path: Path) -> None:
    given = train(3, "horovod-mpi", tmp_path, KL_STOP, 3 * 32 * 4)
    assert_same(given, alone["kl"])
    assert given[0]["gradient_steps"] == alone["kl"][0]["gradient_steps"] < 3 * 20 * 4, "it did stop"


def assert_same(given: tuple[Any, ...], alone: tuple[Any, ...]) -> None:
    for iteration in range(3):
        for name in ("actions", "dones"):
            if alone[0]["rollouts"][iteration][name].dtype != torch.float32 or name == "dones":
                assert torch.equal(whole(given, iteration, name), whole(alone, iteration, name)), (iteration, name)
        for name in ("observations", "actions", "rewards", "values", "log_probs", "advantages", "returns"):
            ours, theirs = whole(given, iteration, name), whole(alone, iteration, name)
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, msg=lambda m: f"{iteration} {name}: {m}")
    expected = alone[0]["parameters"]
    for rank in given:
        assert (rank["parameters"] - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("way", WAYS)
def test_parameters_are_bit_equal_after_two_hundred_updates(way: str, tmp_path: Path) -> None:
    settings = [*CARTPOLE, "algorithm.epochs=4"]  # 32 * 4 samples by 32: 4 minibatches, 4 epochs: 16 updates a rollout
    given = train(2, way, tmp_path, settings, 13 * 32 * 4)
    assert given[0]["parameters"].numpy().tobytes() == given[1]["parameters"].numpy().tobytes()
    assert given[0]["status"] == "done"
