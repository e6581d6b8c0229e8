"""Observations of the shape and kind of Atari games that cost next to nothing: for tests and measurements of everything
but the games."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

SHAPE, ACTIONS, LENGTH = (4, 84, 84), 4, 200
DRAW = np.random.default_rng(0)
SHADES = DRAW.integers(0, ACTIONS, 256 + 3)
SCREENS = (DRAW.integers(0, 64, (len(SHADES), 84, 84)) + 64 * SHADES[:, None, None]).astype(np.uint8)
STACKS = np.lib.stride_tricks.sliding_window_view(SCREENS, 4, axis=0).transpose(0, 3, 1, 2)
"""uint8 (256, 4, 84, 84): one after the other as in a game, each three screens of the one before and a new one."""
OBSERVATIONS, CHOICES = gym.spaces.Box(0, 255, SHAPE, np.uint8), gym.spaces.Discrete(ACTIONS)


def rewards_of(places: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """1 for the action that the shade of the newest screen names."""
    return (SHADES[places + 3] == actions).astype(np.float64)


class Screens(gym.Env):
    """Goes from one stack of screens to the next, from a random one on; an episode has 200 steps."""

    observation_space, action_space = OBSERVATIONS, CHOICES

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place, self.steps = int(self.np_random.integers(len(STACKS))), 0
        return STACKS[self.place].copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = float(rewards_of(np.array([self.place]), np.array([action]))[0])
        self.place, self.steps = (self.place + 1) % len(STACKS), self.steps + 1
        return STACKS[self.place].copy(), reward, self.steps >= LENGTH, False, {}


class ScreensVector(gym.vector.VectorEnv):
    """Many of them in one call."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "seeds_per_environment": True}

    def __init__(self, num_envs: int) -> None:
        self.num_envs, self.single_observation_space, self.single_action_space = num_envs, OBSERVATIONS, CHOICES
        self.observation_space, self.action_space = batch_space(OBSERVATIONS, num_envs), batch_space(CHOICES, num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self.draws = [np.random.default_rng(each) for each in seed]
        self.places = np.array([draw.integers(len(STACKS)) for draw in self.draws])
        self.steps = np.zeros(self.num_envs, dtype=np.int64)
        return STACKS[self.places], {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        rewards = rewards_of(self.places, actions)
        self.places, self.steps = (self.places + 1) % len(STACKS), self.steps + 1
        done, info = self.steps >= LENGTH, {}
        if done.any():
            info["final_obs"] = STACKS[self.places]
            self.steps[done] = 0
            self.places[done] = [self.draws[index].integers(len(STACKS)) for index in np.flatnonzero(done)]
        return STACKS[self.places], rewards, done, np.zeros_like(done), info


gym.register("Screens-v0", Screens, vector_entry_point=ScreensVector)
