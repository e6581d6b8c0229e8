"""Environments of the tests, for `env.id = "tests.environments:Name-v0"`: small, and broken where a test wants it."""

from __future__ import annotations

import os
import signal
from functools import partial
from time import sleep, thread_time
from typing import Any

import gymnasium as gym
import numpy as np


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
        from harness.distributed.world import detect_place  # here: workers of the other environments need no torch

        self.how, self.at = how, at
        self.here = detect_place(os.environ).rank == rank

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = super().step(action)
        if self.here and self.steps == self.at:
            if self.how == "raise":
                raise RuntimeError("the environment broke on purpose")
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "hang":
                sleep(1000)
            if self.how == "exit":
                os._exit(3)
            if self.how == "nan-reward":
                reward = float("nan")
            if self.how == "nan-observation":
                observation = np.full_like(observation, np.nan)
        return observation, reward, terminated, truncated, info


class Scarce(Line):
    """As Line, of which a process of rank `rank` can make so many; at the next one it does what `how` says."""

    made = 0

    def __init__(self, how: str = "refuse", rank: int = 1, most: int = 12) -> None:
        from harness.distributed.world import detect_place

        Scarce.made += 1
        if detect_place(os.environ).rank == rank and Scarce.made > most:
            if how == "exit":
                os._exit(2)
            raise RuntimeError("no licence server") if how == "crash" else TypeError("no licence is left")


class BrokenPush(Broken):
    """As Broken, with a number for an action."""

    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return super().step(float(action[0]))


class Unbounded(Line):
    """As Line, with a number without bounds for an action."""

    action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)


class Bytes(Line):
    """As Line, seen as a picture of bytes."""

    observation_space = gym.spaces.Box(0, 255, (2, 4), np.uint8)

    def observe(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (2, 4)).astype(np.uint8)


class Count(gym.Env):
    """Observes (number of the episode, step of it); the reward is the step; an episode has `length` steps."""

    observation_space = gym.spaces.Box(0, 1e6, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, length: int = 3) -> None:
        self.length, self.episode = length, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return np.array([self.episode, 0], dtype=np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        observation = np.array([self.episode, self.steps], dtype=np.float32)
        return observation, float(self.steps), self.steps >= self.length, False, {}


class Busy(Line):
    """As Line, where a step takes `seconds` of a core's time, like a simulator."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        until = thread_time() + self.seconds
        while thread_time() < until:
            pass
        return super().step(action)


class Match(gym.Env):
    """The action is worth 1 where it is the number that was seen, of three; an episode has 20 steps."""

    observation_space = gym.spaces.Box(0.0, 1.0, (3,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def observe(self) -> np.ndarray:
        self.number = int(self.np_random.integers(3))
        return np.eye(3, dtype=np.float32)[self.number]

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        reward = float(action == self.number)
        return self.observe(), reward, self.steps >= 20, False, {}


class Constant(gym.Env):
    """A reward of 1 for every step, seen as ever the same; an episode ends at its time limit alone."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.ones(1, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.ones(1, dtype=np.float32), 1.0, False, False, {}


class CountVector(gym.vector.VectorEnv):
    """Several of them, of 3, 4, 5, … steps, as a vector class of a user; begins episodes in gymnasium's three ways."""

    def __init__(self, num_envs: int, mode: str, independent: bool, max_episode_steps: int | None = None) -> None:
        self.mode, self.num_envs = gym.vector.AutoresetMode(mode), num_envs
        self.metadata = {"autoreset_mode": self.mode, "seeds_per_environment": independent}
        self.single_observation_space, self.single_action_space = Count.observation_space, Count.action_space
        self.envs = [Count(3 + index) for index in range(num_envs)]
        self.independent = independent

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        if seed is not None:
            assert isinstance(seed, list if self.independent else int)
            self.observations = np.zeros((self.num_envs, 2), np.float32)
        which = np.ones(self.num_envs, dtype=bool) if options is None else options["reset_mask"]
        for index in np.flatnonzero(which):
            self.observations[index], _ = self.envs[index].reset()
        self.done = np.zeros(self.num_envs, dtype=bool)
        return self.observations, {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        rewards, done, final = np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=bool), [None] * self.num_envs
        for index, env in enumerate(self.envs):
            if self.mode == gym.vector.AutoresetMode.NEXT_STEP and self.done[index]:
                self.observations[index], _ = env.reset()
                continue
            self.observations[index], rewards[index], done[index], _, _ = env.step(actions[index])
            if self.mode == gym.vector.AutoresetMode.SAME_STEP and done[index]:
                final[index] = self.observations[index].copy()
                self.observations[index], _ = env.reset()
        self.done = done
        info: dict[str, Any] = {}
        if self.mode == gym.vector.AutoresetMode.SAME_STEP and done.any():
            info["final_obs"] = np.array([*final, None], dtype=object)[:-1]
        return self.observations, rewards, done, np.zeros(self.num_envs, dtype=bool), info


for each in gym.vector.AutoresetMode:
    for own in (True, False):
        gym.register(
            f"Count{each.value}{'' if own else 'Shared'}-v0",
            Count,
            vector_entry_point=partial(CountVector, mode=each.value, independent=own),
        )
gym.register("Bytes-v0", Bytes, max_episode_steps=50)
gym.register("Count-v0", Count)
gym.register("Match-v0", Match)
gym.register("Constant-v0", Constant, max_episode_steps=4)
gym.register("Busy-v0", Busy, max_episode_steps=50)
gym.register("Line-v0", Line, max_episode_steps=50)
gym.register("Broken-v0", Broken, max_episode_steps=50)
gym.register("Scarce-v0", Scarce, max_episode_steps=50)
gym.register("BrokenPush-v0", BrokenPush, max_episode_steps=50)
gym.register("Unbounded-v0", Unbounded, max_episode_steps=50)
