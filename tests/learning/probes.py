"""Environments whose best policy and values are known, for `env.id = "tests.learning.probes:Name-v0"`.

Each isolates one thing that a learner has to get right, so that a test of a few seconds fails when it is wrong.
"""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np

Stepped = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


def actions_of(kind: str) -> gym.spaces.Space:
    return gym.spaces.Box(-1.0, 1.0, (1,), np.float32) if kind == "continuous" else gym.spaces.Discrete(2)


class Probe(gym.Env):
    """`kind`: `discrete` actions 0 and 1, or `continuous` ones from -1 to 1."""

    def __init__(self, kind: str = "discrete") -> None:
        self.kind, self.action_space = kind, actions_of(kind)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        self.begin()
        return self.observe(), {}

    def begin(self) -> None:
        """What an episode begins with."""

    def observe(self) -> np.ndarray:
        raise NotImplementedError


class Echo(Probe):
    """The best action is what is observed: 0 or 1, or a number from -1 to 1. A step is worth up to 1, an episode of 10
    steps up to 10; it is 5 by chance.

    Observations are the number times `scale` plus `shift`, rewards likewise times `worth` plus `base`: what
    normalisation has to undo.
    """

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def __init__(
        self, kind: str = "discrete", scale: float = 1.0, shift: float = 0.0, worth: float = 1.0, base: float = 0.0
    ) -> None:
        super().__init__(kind)
        self.scale, self.shift, self.worth, self.base = scale, shift, worth, base

    def observe(self) -> np.ndarray:
        continuous = self.kind == "continuous"
        self.cue = float(self.np_random.uniform(-1, 1) if continuous else self.np_random.integers(2))
        return np.array([self.cue * self.scale + self.shift], np.float32)

    def step(self, action: Any) -> Stepped:
        self.steps += 1
        match = 1.0 - min(abs(float(np.ravel(action)[0]) - self.cue), 1.0)
        return self.observe(), self.base + self.worth * match, self.steps == 10, False, {}


class Pictured(Echo):
    """Echo with what is to be echoed shown in a picture: which half of it is the brighter, left (0) or right (1)."""

    SIZE = 36
    observation_space = gym.spaces.Box(0, 255, (1, SIZE, SIZE), np.uint8)

    def observe(self) -> np.ndarray:
        super().observe()
        picture = self.np_random.integers(0, 64, self.observation_space.shape, dtype=np.uint8)
        half = self.SIZE // 2
        picture[..., half:] += np.uint8(128 * self.cue)
        picture[..., :half] += np.uint8(128 * (1 - self.cue))
        return picture


class Delayed(Probe):
    """What the first action is worth, 1 or 0 (or between), comes with the last of `LENGTH` steps.

    Observes which step it is, and what the first action was worth. After the best first action the state before step t
    (from 0) is worth γ^(LENGTH - 1 - t), and so is the first state.
    """

    LENGTH = 4
    observation_space = gym.spaces.Box(0.0, 1.0, (LENGTH + 1,), np.float32)

    def begin(self) -> None:
        self.earned = 0.0

    def observe(self) -> np.ndarray:
        return self.state(self.steps, self.earned)

    @classmethod
    def state(cls, step: int, earned: float) -> np.ndarray:
        """float32 (LENGTH + 1,)"""
        return np.array([*(float(step == number) for number in range(cls.LENGTH)), earned if step else 0.0], np.float32)

    def step(self, action: Any) -> Stepped:
        if self.steps == 0:
            number = float(np.ravel(action)[0])
            self.earned = number if self.kind == "discrete" else np.clip(0.5 + number, 0.0, 1.0)
        self.steps += 1
        over = self.steps == self.LENGTH
        return self.observe(), self.earned if over else 0.0, over, False, {}


class Endless(Probe):
    """A reward of 1 a step; only a time limit, `LIMIT` steps, ends an episode. Observes how much of it is over.

    Every state is worth 1 / (1 - γ), those shortly before the limit too.
    """

    LIMIT = 5
    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)

    def observe(self) -> np.ndarray:
        return np.array([self.steps / self.LIMIT], np.float32)

    def step(self, action: Any) -> Stepped:
        self.steps += 1
        return self.observe(), 1.0, False, False, {}


class Steady(Probe):
    """A reward of 0 or 1 a step, the same throughout an episode, which only a time limit of `LIMIT` steps ends.
    Observes it, times `SCALE` plus `SHIFT`.

    Where it is 1 a state is worth 1 / (1 - γ), where it is 0 nothing: no one value of all last observations is right.
    """

    LIMIT, SCALE, SHIFT = 2, 0.5, -20.0
    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def begin(self) -> None:
        self.reward = float(self.np_random.integers(2))

    def observe(self) -> np.ndarray:
        return self.state(self.reward)

    @classmethod
    def state(cls, reward: float) -> np.ndarray:
        """float32 (1,)"""
        return np.array([reward * cls.SCALE + cls.SHIFT], np.float32)

    def step(self, action: Any) -> Stepped:
        self.steps += 1
        return self.observe(), self.reward, False, False, {}


class Uneven(Probe):
    """Echo with episodes of `LENGTHS[rank]` steps. Observes its number and the rank, 0 or 1."""

    LENGTHS = (2, 37)
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, kind: str = "discrete") -> None:
        from harness.distributed.world import detect_place

        super().__init__(kind)
        self.rank = detect_place(os.environ).rank % 2

    def observe(self) -> np.ndarray:
        self.cue = float(self.np_random.integers(2))
        return np.array([self.cue, self.rank], np.float32)

    def step(self, action: Any) -> Stepped:
        self.steps += 1
        match = 1.0 - min(abs(float(np.ravel(action)[0]) - self.cue), 1.0)
        return self.observe(), match, self.steps == self.LENGTHS[self.rank], False, {}


gym.register("Echo-v0", Echo)
gym.register("Pictured-v0", Pictured)
gym.register("Delayed-v0", Delayed)
gym.register("Endless-v0", Endless, max_episode_steps=Endless.LIMIT)
gym.register("Steady-v0", Steady, max_episode_steps=Steady.LIMIT)
gym.register("Uneven-v0", Uneven)
