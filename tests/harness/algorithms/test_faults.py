"""A number of an environment's that is none is told by its environment and step, before anything is learned from it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from harness.algorithms import Context, algorithm_class
from harness.config import resolve
from harness.distributed.transports.base import Alone
from harness.envs import make_environments
from harness.errors import EnvironmentFault
from harness.reporting import PhaseTimer


class Sensor(gym.Env):
    """Breaks after `after` of its own steps, in one of its numbers. `cut`: after so many steps a limit cuts an episode;
    `end`: after so many one has ended."""

    observation_space: gym.Space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space: gym.Space = gym.spaces.Discrete(2)
    made = 0

    def __init__(
        self, bad: str = "nan", what: str = "observation", after: int = 37, which: int = 1, cut: int = 50, end: int = 50
    ) -> None:
        self.bad, self.what, self.after, self.ends = float(bad), what, after, (end, cut)
        self.broken, self.ever = Sensor.made == which, 0
        Sensor.made += 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return np.ones(3, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps, self.ever = self.steps + 1, self.ever + 1
        seen, reward = np.full(3, 0.1 * self.steps, np.float32), 1.0
        if self.broken and self.ever == self.after:
            if self.what == "observation":
                seen[1] = self.bad
            else:
                reward = self.bad
        end, cut = self.ends
        return seen, reward, self.steps >= end, self.steps >= cut, {}


class Push(Sensor):
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)


gym.register("Sensor-v0", Sensor)
gym.register("Push-v0", Push)

REPLAY = {"learning_starts": 16, "batch_size": 8, "train_freq": 4, "gradient_steps": 1, "buffer_size": 500}
TABLES: dict[str, dict[str, Any]] = {
    "ppo": {"rollout_steps": 32, "minibatch_size": 32, "epochs": 1},
    "a2c": {"rollout_steps": 5},
    "dqn": REPLAY,
    "td3": REPLAY,
    "sac": REPLAY,
}


def make(name: str, env: dict[str, Any], **kwargs: Any) -> Any:
    Sensor.made = 0
    env_id = f"{__name__}:{'Push' if name in ('td3', 'sac') else 'Sensor'}-v0"
    config = resolve(
        {
            "run": {"steps": 1024},
            "env": {"id": env_id, "kwargs": kwargs, "count": 2, "backend": "sync", **env},
            "algorithm": {"name": name, **TABLES[name]},
            "network": {"hidden": [8]},
            "compile": {"mode": "off"},
        }
    )
    assert config.env is not None
    envs = make_environments(config.env, 0, 1)
    play = lambda act, episodes, final: np.zeros(episodes)  # noqa: E731
    return algorithm_class(name)(Context(config, Alone(), torch.device("cpu"), PhaseTimer(), envs, play))


def fault_of(algorithm: Any) -> str:
    with pytest.raises(EnvironmentFault) as caught:
        for iteration in range(3):
            algorithm.iterate(iteration)
    for parameter in algorithm.module.parameters():
        assert torch.isfinite(parameter).all(), "nothing was learned from it"
    algorithm.close()
    return str(caught.value)


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("name", TABLES)
def test_an_observation_that_is_no_number_is_told(name: str, bad: str) -> None:
    said = fault_of(make(name, {}, bad=bad))
    assert said == f"environment 1 gave {bad} in its observation[1] in its step 37 of this run"


@pytest.mark.parametrize("bad", ["nan", "inf"])
@pytest.mark.parametrize("name", TABLES)
def test_a_reward_that_is_no_number_is_told(name: str, bad: str) -> None:
    said = fault_of(make(name, {}, bad=bad, what="reward", which=0))
    assert said == f"environment 0 gave {bad} as its reward in its step 37 of this run"


@pytest.mark.parametrize("bad", ["nan", "inf"])
@pytest.mark.parametrize("name", ["ppo", "a2c"])
@pytest.mark.parametrize("after", [1, 5, 32, 37])
def test_clipped_by_its_moments_it_is_told_too(name: str, bad: str, after: int) -> None:
    said = fault_of(make(name, {"normalize_observations": True, "normalize_rewards": True}, bad=bad, after=after))
    assert said == f"environment 1 gave {bad} in its observation[1] in its step {after} of this run"


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("name", TABLES)
def test_where_a_limit_cut_an_episode_its_last_observation_counts(name: str, normalized: bool) -> None:
    if normalized and name not in ("ppo", "a2c"):
        return
    said = fault_of(make(name, {"normalize_observations": normalized}, after=20, cut=20))
    assert said == "environment 1 gave nan in its observation[1] in its step 20 of this run"


@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_an_episode_that_ended_may_end_in_anything(name: str) -> None:
    """Simulators end episodes by it, and nobody learns from what comes after an end."""
    algorithm = make(name, {}, after=20, end=20)
    for iteration in range(3):
        algorithm.iterate(iteration)
    algorithm.close()


def test_it_is_told_before_learning_starts() -> None:
    assert "in its step 3 of this run" in fault_of(make("dqn", {}, after=3))
