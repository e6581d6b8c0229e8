"""Environments' own vector classes, made to reset in the same step and to draw from one stream per environment.

A vector class draws all its resets from one stream, in the order in which episodes happen to end, so that its episodes
depend on how many environments share the vector: N ranks would not be the same experiment. An adapter here resets each
environment from its own stream, and in the step in which its episode ends, so that no transition mixes two episodes.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from harness.envs.settings import EnvSettings


class SameStepCartPole(CartPoleVectorEnv):
    """gymnasium's CartPole vector; `step` gives the final observations by `info["final_obs"]`."""

    metadata = {**CartPoleVectorEnv.metadata, "autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}

    state: np.ndarray  # type: ignore[assignment]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """`seed`: one int per environment."""
        super().reset(options=options)
        self.streams = [np.random.Generator(np.random.PCG64(each)) for each in seed]
        everyone = np.ones(self.num_envs, dtype=bool)
        self._restart(everyone)
        return self.state.T.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observations, rewards, terminated, truncated, info = super().step(action)
        if self.prev_done.any():
            info["final_obs"] = observations.copy()
            self._restart(self.prev_done)
            observations = self.state.T.astype(np.float32)
            self.prev_done = np.zeros(self.num_envs, dtype=bool)  # or the base resets once more in the next step
        return observations, rewards, terminated, truncated, info

    def _restart(self, which: np.ndarray) -> None:
        for index in np.flatnonzero(which):
            self.state[:, index] = self.streams[index].uniform(self.low, self.high, size=4)
        self.steps[which] = 0


NATIVE = {"CartPole-v0": SameStepCartPole, "CartPole-v1": SameStepCartPole}


def native_class(settings: EnvSettings) -> type[gym.vector.VectorEnv] | None:
    """The adapter for this environment as its settings describe it; None where there is none (wrappers need single
    ones)."""
    return None if settings.wrappers else NATIVE.get(settings.id)


def make_native(settings: EnvSettings, count: int) -> gym.vector.VectorEnv:
    steps = gym.spec(settings.id).max_episode_steps
    return NATIVE[settings.id](**{"max_episode_steps": steps, **settings.kwargs}, num_envs=count)
