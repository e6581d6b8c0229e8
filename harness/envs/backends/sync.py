"""Environments one after the other, in this process; what a worker does with its part, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from harness.envs.backends.base import Backend, InTurn, StepResult, Vector
from harness.envs.factory import make_environment, number_of
from harness.envs.info import metrics_of
from harness.envs.inspection import claim_spare
from harness.envs.settings import LIFE_LOST, EnvSettings
from harness.envs.snapshots.snapshot import Snapshots, put_back


class Arrays(NamedTuple):
    """Where a step's outcome is written, a row for each environment."""

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    final_observations: np.ndarray
    lives_lost: np.ndarray
    """Like the observations above it, it means something where an episode ended."""
    info_metrics: np.ndarray
    """As above."""

    def rows(self, which: slice) -> Arrays:
        return Arrays(*(array[which] for array in self))


def step_in_turn(
    envs: list[gym.Env], actions: np.ndarray, out: Arrays, first: int, metrics: Sequence[str] = ()
) -> bool:
    """Steps each by its action; where an episode ends, keeps its last observation and the `metrics` of its last info,
    and begins the next. Whether any ended. An error says in a note in which environment it was; `first` is the global
    index of the first."""
    ended, row = False, 0
    try:
        for row, env in enumerate(envs):
            observation, reward, terminated, truncated, info = env.step(actions[row])
            try:
                out.rewards[row] = reward
            except (TypeError, ValueError):  # an array of one number, or what is none
                out.rewards[row] = number_of(reward)
            out.terminated[row], out.truncated[row] = terminated, truncated
            if terminated or truncated:
                ended = True
                out.final_observations[row], out.lives_lost[row] = observation, LIFE_LOST in info
                if metrics:
                    out.info_metrics[row] = metrics_of(info, metrics)
                observation, _ = env.reset()
            out.observations[row] = observation
    except Exception as error:
        error.add_note(f"in environment {first + row}")
        raise
    return ended


def put_back_each(envs: list[gym.Env], states: list[Any], seeds: list[int]) -> np.ndarray:
    """bool (envs,): which continue from their state; the others are as a reset by their seed leaves them."""
    goes_on = np.zeros(len(envs), dtype=bool)
    for row, (env, state, seed) in enumerate(zip(envs, states, seeds)):
        goes_on[row] = state is not None and put_back(env, state)
        if state is not None and not goes_on[row]:
            env.reset(seed=seed)
    return goes_on


class Sync(InTurn):
    def __init__(self, settings: EnvSettings, count: int, first: int = 0) -> None:
        """`first`: the global index of the first environment."""
        self.first, self.snapshots, self.metrics = first, Snapshots(), settings.info_metrics
        spare = claim_spare(settings)
        self.envs = [] if spare is None else [spare]
        self.envs += [make_environment(settings) for _ in range(count - len(self.envs))]
        observation_space, action_space = self.envs[0].observation_space, self.envs[0].action_space
        assert isinstance(observation_space, spaces.Box)
        super().__init__("sync", count, observation_space, action_space)
        self.final, self.no_metrics = self.zeros(), np.empty((count, 0))

    def zeros(self) -> np.ndarray:
        """Where rows that are not written are cast and normalised beside the others."""
        return np.zeros((self.count, *self.observation_space.shape), self.observation_space.dtype)

    def empty(self) -> np.ndarray:
        return np.empty((self.count, *self.observation_space.shape), self.observation_space.dtype)

    def reset(self, seeds: list[int]) -> np.ndarray:
        observations, self.seeds = self.empty(), seeds
        with self.snapshots.resetting(self.envs):
            for row, (env, seed) in enumerate(zip(self.envs, seeds)):
                observations[row], _ = env.reset(seed=seed)
        return observations

    def step(self, actions: np.ndarray) -> StepResult:
        flags = np.zeros((3, self.count), dtype=bool)
        rewards, values = np.empty(self.count, np.float32), self.no_metrics
        if self.metrics:
            values = np.empty((self.count, len(self.metrics)))
        out = Arrays(self.empty(), rewards, flags[0], flags[1], self.final, flags[2], values)
        final = lives_lost = None
        if step_in_turn(self.envs, actions, out, self.first, self.metrics):
            final, self.final = self.final, self.zeros()
            lives_lost = out.lives_lost
        metrics = values if self.metrics and final is not None else None
        return StepResult(
            out.observations, rewards, rewards, out.terminated, out.truncated, final, lives_lost, info_metrics=metrics
        )

    def state(self) -> dict[str, Any] | None:
        return {"envs": states} if any(states := self.snapshots.take(self.envs)) else None

    def load_state(self, state: dict[str, Any]) -> np.ndarray:
        return put_back_each(self.envs, state["envs"], self.seeds)

    def close(self) -> None:
        for env in self.envs:
            env.close()


class SyncBackend(Backend):
    takes_spare = True

    def refuses(self, settings: EnvSettings) -> str | None:
        return None

    def preferred(self, settings: EnvSettings, count: int, cores: int) -> bool:
        return True

    def make(self, settings: EnvSettings, count: int, first: int, cores: int) -> Vector:
        return Sync(settings, count, first)
