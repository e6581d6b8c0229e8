"""Environments of the tests, for `env.id = "tests.environments:Name-v0"`: small, and broken where a test wants it."""

from __future__ import annotations

import os
import signal
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from harness.distributed.world import detect_place


class Line(gym.Env):
    """One step right (1) or left (0) on a line; a reward of 1 for the right one; an episode has 20 steps."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def observe(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, 2).astype(np.float32)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return self.observe(), float(action), self.steps >= 20, False, {}


class Broken(Line):
    """As Line, until step `at` of any episode on rank `rank`: then it does what `how` says."""

    def __init__(self, how: str = "raise", rank: int = 1, at: int = 10) -> None:
        self.how, self.at = how, at
        self.here = detect_place(os.environ).rank == rank

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = super().step(action)
        if self.here and self.steps == self.at:
            if self.how == "raise":
                raise RuntimeError("the environment broke on purpose")
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "exit":
                os._exit(3)
            if self.how == "nan-reward":
                reward = float("nan")
            if self.how == "nan-observation":
                observation = np.full_like(observation, np.nan)
        return observation, reward, terminated, truncated, info


class Bytes(Line):
    """As Line, seen as a picture of bytes."""

    observation_space = gym.spaces.Box(0, 255, (2, 4), np.uint8)

    def observe(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (2, 4)).astype(np.uint8)


class WithDropout(nn.Module):
    """A user's network that is not the same twice while it trains."""

    def __init__(self, observation_space: gym.spaces.Box, action_parameters: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Dropout(0.5))
        self.policy, self.value = nn.Linear(32, action_parameters), nn.Linear(32, 1)

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.trunk(observations)
        return self.policy(features), self.value(features).squeeze(-1)


gym.register("Bytes-v0", Bytes, max_episode_steps=50)
gym.register("Line-v0", Line, max_episode_steps=50)
gym.register("Broken-v0", Broken, max_episode_steps=50)
