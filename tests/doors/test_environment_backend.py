"""An environment backend of one's own: gymnasium's vector of single environments."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import harness
from harness.envs.backends.base import Backend, InTurn, StepResult, Vector
from harness.envs.inspection import check_environment
from harness.envs.settings import EnvSettings
from harness.errors import BadInput


class GymnasiumVector(InTurn):
    def __init__(self, settings: EnvSettings, count: int) -> None:
        super().__init__("gymnasium", count, *check_environment(settings))
        makers = [lambda: gym.make(settings.id, **settings.kwargs)] * count
        self.vector = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)

    def reset(self, seeds: list[int]) -> np.ndarray:
        return self.vector.reset(seed=list(seeds))[0]

    def step(self, actions: np.ndarray) -> StepResult:
        observations, rewards, terminated, truncated, info = self.vector.step(actions)
        final, rewards = None, rewards.astype(np.float32)
        for env in np.flatnonzero(terminated | truncated):
            final = observations.copy() if final is None else final
            final[env] = info["final_obs"][env]
        return StepResult(observations.copy(), rewards, rewards, terminated, truncated, final)


class GymnasiumBackend(Backend):
    def refuses(self, settings: EnvSettings) -> str | None:
        return "env.wrappers must be absent with this backend" if settings.wrappers else None

    def make(self, settings: EnvSettings, count: int, first: int, cores: int) -> Vector:
        return GymnasiumVector(settings, count)


def test_a_backend_of_ones_own_makes_the_episodes_that_sync_makes(tmp_path: Path) -> None:
    short = ["run.steps=2048", "compile.mode=off", "evaluation.count=1", "evaluation.final_episodes=2"]
    own, made = f"{__name__}:GymnasiumBackend", []
    for backend in (own, "sync"):
        run_dir = tmp_path / backend.replace(":", "-")
        harness.train("ppo-cartpole", [*short, f"env.backend={backend}"], output=run_dir)
        metrics = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        made.append([(line["return_mean"], line["loss"]) for line in metrics])
        assert f'backend = "{backend}"' in (run_dir / "config.toml").read_text()
    assert made[0] == made[1]
    wrapped = [*short, f"env.backend={own}", 'env.wrappers=["gymnasium.wrappers:FlattenObservation"]']
    with pytest.raises(BadInput, match="env.wrappers must be absent with this backend"):
        harness.train("ppo-cartpole", wrapped, output=tmp_path / "wrapped")
