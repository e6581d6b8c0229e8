"""Short runs for tests of policies: what they have learned does not matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from harness.config import load_run_config
from harness.run.train import train

SHORT = ["evaluation.count=1", "evaluation.episodes=1", "evaluation.final_episodes=3", "logging.tensorboard=false"]
EAGER = ["compile.mode=off", "env.backend=sync"]


def short_run(folder: Path, preset: str, *overrides: str) -> Path:
    """A run of a few updates; returns its directory."""
    config = load_run_config(preset)
    assert config.env is not None
    algorithm: Any = config.algorithm
    if algorithm.name in ("ppo", "a2c"):
        steps = [f"run.steps={algorithm.rollout_steps * config.env.count}"]
        steps += ["algorithm.epochs=1"] if algorithm.name == "ppo" else []
    else:
        steps = ["run.steps=500", "algorithm.buffer_size=2000", "algorithm.learning_starts=64"]
        steps += ["algorithm.batch_size=32"]
    if config.env.game is not None:
        steps = ["env.count=2", "algorithm.rollout_steps=8", "algorithm.minibatch_size=8", "run.steps=16"]
        steps += ["evaluation.max_steps=50"]
    train(load_run_config(preset, [*SHORT, *EAGER, *steps, *overrides]), folder)
    return folder


class Box(gym.Env):
    """Observations are random numbers; an episode has 30 steps, and whatever is done earns 1."""

    def __init__(self, actions: str = "Discrete", observed: str = "float32") -> None:
        low = 0 if observed == "uint8" else -10
        self.observation_space = spaces.Box(low, 10, (3, 2), np.dtype(observed).type)
        self.action_space = {
            "Discrete": lambda: spaces.Discrete(3, start=-1),
            "MultiDiscrete": lambda: spaces.MultiDiscrete([2, 3], dtype=np.int32),
            "MultiBinary": lambda: spaces.MultiBinary(4),
            "whole": lambda: spaces.Box(-5, 200, (2,), np.int16),
            "float64": lambda: spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 1e6]), dtype=np.float64),
            "unbounded": lambda: spaces.Box(-np.inf, np.inf, (2, 2), np.float32),
        }[actions]()
        self.steps = 0

    def observe(self) -> np.ndarray:
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        self.steps += 1
        return self.observe(), 1.0, self.steps >= 30, False, {}


gym.register("Spaces-v0", lambda **kwargs: Box(**kwargs), max_episode_steps=100)


class Gated(nn.Module):
    """A network of a user's, with a normaliser and a gate."""

    def __init__(self, observation_space: spaces.Box, action_parameters: int) -> None:
        super().__init__()
        inputs = int(np.prod(observation_space.shape))
        self.norm, self.inner = nn.LayerNorm(inputs), nn.Linear(inputs, 16)
        self.gate = nn.Linear(inputs, 16)
        self.policy, self.value = nn.Linear(16, action_parameters), nn.Linear(16, 1)

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.norm(observations.flatten(1))
        x = nn.functional.gelu(self.inner(x)) * self.gate(x).sigmoid()
        return self.policy(x), self.value(x).squeeze(-1)


class Branching(Gated):
    """Goes another way for some batches, which no trace has."""

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        parameters, values = super().forward(observations)
        return (parameters, values) if bool(observations.sum() > 0) else (parameters.flip(-1), values)
