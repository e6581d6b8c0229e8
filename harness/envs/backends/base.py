"""What every backend offers: a rank's environments, stepped together or in groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces


@dataclass(slots=True)  # not frozen: that would take 1 us of a step that takes 8
class StepResult:
    """One step of a vector's environments, or of one group of them. The arrays are the caller's: no later step changes
    them."""

    observations: np.ndarray
    """(envs, *obs_shape): what to act on next; of a new episode where the last one has just ended."""
    rewards: np.ndarray
    """float32 (envs,): what is learned from, scaled where `env.normalize_rewards` says so."""
    true_rewards: np.ndarray
    """float32 (envs,): what the environment gave."""
    terminated: np.ndarray
    """bool (envs,): the episode reached its end; nothing is to be had after it."""
    truncated: np.ndarray
    """bool (envs,): the episode was cut by a limit; what would have followed has a value."""
    final_observations: np.ndarray | None
    """(envs, *obs_shape) where an episode ended: its last observation in that row; other rows mean nothing. None where
    none ended in this step."""
    lives_lost: np.ndarray | None = None
    """bool (envs,): where what ended was a life and the game goes on: an episode to learn from, but none to report.
    None: nowhere."""
    valid: np.ndarray | None = None
    """bool (envs,): False where the environment only began a new episode and its action was ignored, so that this is
    no transition to learn from. None: all are."""
    info_metrics: np.ndarray | None = None
    """float64 (envs, names): `env.info_metrics` of the last info where an episode ended, NaN where it had none. None:
    nowhere."""


class Vector(ABC):
    """A rank's environments under one backend. `step` steps all; `send` and `receive` step one group of them, so that
    one group can step while the policy acts for another. An episode's end and the next one's first observation come in
    the same step."""

    backend: str
    observation_space: spaces.Box
    action_space: spaces.Space
    count: int
    groups: tuple[slice, ...]
    """Which environments step together; more than one group where they step in processes of their own."""
    notice: str | None = None
    """What the user must know about these environments; one line."""

    @abstractmethod
    def reset(self, seeds: list[int]) -> np.ndarray:
        """(envs, *obs_shape): first observations; environment i's episodes follow from `seeds[i]`."""

    @abstractmethod
    def send(self, actions: np.ndarray, group: int = 0) -> None:
        """Starts a step of the environments `groups[group]` by `actions`, one for each of them."""

    @abstractmethod
    def receive(self, group: int = 0) -> StepResult:
        """Waits for the step that `send` started."""

    def state(self) -> dict[str, Any] | None:
        """What the environments go on from, while no step is under way: each value an array (envs, …) of its own, a
        list of as many, or a dict of these. None where it cannot be had."""
        return None

    def load_state(self, state: dict[str, Any]) -> np.ndarray:
        """After a reset: bool (envs,), which environments go on from `state`, as that of another vector (or the parts
        of several) gave it; the others stay as the reset left them."""
        return np.zeros(self.count, dtype=bool)

    def close(self) -> None:
        """Gives back processes and windows."""


class InTurn(Vector):
    """A vector that steps in this process: one group, whose step is made when it is received."""

    def __init__(self, backend: str, count: int, observation_space: spaces.Box, action_space: spaces.Space) -> None:
        self.backend, self.count = backend, count
        self.observation_space, self.action_space = observation_space, action_space
        self.groups = (slice(0, count),)

    @abstractmethod
    def step(self, actions: np.ndarray) -> StepResult: ...

    def send(self, actions: np.ndarray, group: int = 0) -> None:
        self.actions = actions

    def receive(self, group: int = 0) -> StepResult:
        return self.step(self.actions)
