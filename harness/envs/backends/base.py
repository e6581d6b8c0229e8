"""What every backend offers: a rank's environments, stepped together or in groups; and what it says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from harness.envs.factory import make_environment
from harness.envs.settings import EnvSettings


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
        """The environments' state, while no step is under way: each value an array (envs, …) of its own, a
        list of as many, or a dict of these. None where it cannot be had."""
        return None

    def load_state(self, state: dict[str, Any]) -> np.ndarray:
        """After a reset: bool (envs,), which environments continue from `state`, as that of another vector (or the
        parts of several) gave it; the others stay as the reset left them."""
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


class Backend(ABC):
    """A way to step environments, which `env.backend` names: whether it can step these, whether `auto` takes it, and
    its vector of them."""

    takes_spare: ClassVar[bool] = False
    """Whether `make` takes the environment that was looked at before the run (`inspection.claim_spare`); for others it
    is closed first."""

    @abstractmethod
    def refuses(self, settings: EnvSettings) -> str | None:
        """Why it cannot step these environments on this machine, in one line that names the setting and what it may
        be; None where it can."""

    def preferred(self, settings: EnvSettings, count: int, cores: int) -> bool:
        """Whether `auto` takes it for a rank of `count` environments and so many cores. Where its episodes are not
        those of `sync`, that depends on neither a measurement nor the number of ranks."""
        return False

    def double_buffered(self, settings: EnvSettings, count: int, cores: int, device: str) -> bool:
        """What `env.double_buffer = "auto"` comes to be, where the policy acts on `device`."""
        return False

    @abstractmethod
    def make(self, settings: EnvSettings, count: int, first: int, cores: int) -> Vector:
        """A vector of `count` environments, whose first is the global environment `first`."""

    def library_vector(self, settings: EnvSettings, count: int, cores: int) -> Any:
        """What anyone would make who wants what this backend stands for, with gymnasium's `step` and `reset`: `bench`
        compares with it. By default gymnasium's vector of single environments."""
        return gym.vector.SyncVectorEnv([lambda: make_environment(settings)] * count)
