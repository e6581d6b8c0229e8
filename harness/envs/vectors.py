"""A rank's share of the environments, stepped together; the same episodes on any number of ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from harness.distributed.collectives import Collectives
from harness.envs.making import make_environment
from harness.envs.native import make_native, native_class
from harness.envs.normalization import ReturnScaler, RunningMoments
from harness.envs.settings import EnvSettings
from harness.errors import BadInput


@dataclass(frozen=True)
class Share:
    """The environments `first … first + count - 1` of `total`."""

    first: int
    count: int
    total: int

    @property
    def slice(self) -> slice:
        return slice(self.first, self.first + self.count)


def share_of(total: int, rank: int, size: int) -> Share:
    """Rank `rank`'s share: shares differ by at most one, and lie in the order of the ranks."""
    if total < size:
        raise BadInput(f"env.count must be at least the number of ranks, {size}, so that none is idle; got {total}")
    each, more = divmod(total, size)
    return Share(rank * each + min(rank, more), each + (rank < more), total)


@dataclass(frozen=True)
class StepResult:
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
    """(envs, *obs_shape) where an episode ended: its last observation in that row; other rows mean nothing."""


class Environments:
    """Steps this rank's share. Environment i of all is seeded by i, wherever it runs.

    Observations and rewards are normalised where the settings ask for it, by moments that stand still until `take_in`
    merges what all ranks have seen since.
    """

    def __init__(
        self, vector: gym.vector.VectorEnv, share: Share, backend: str, settings: EnvSettings, gamma: float
    ) -> None:
        self.vector, self.share, self.backend = vector, share, backend
        self.count = share.count
        observation_space = vector.single_observation_space
        assert isinstance(observation_space, spaces.Box)
        self.observation_space = observation_space
        self.action_space = vector.single_action_space
        self.moments = RunningMoments(observation_space.shape) if settings.normalize_observations else None
        self.scaler = ReturnScaler(share.count, gamma) if settings.normalize_rewards else None
        kept = observation_space.dtype == np.uint8 and self.moments is None
        self.observation_dtype = np.dtype(np.uint8 if kept else np.float32)
        self.seen: list[np.ndarray] = []

    def reset(self, seed: int, iteration: int = 0) -> np.ndarray:
        """(envs, *obs_shape): first observations. They follow from the run's seed, and from the `iteration` that a
        resumed run goes on with, so that it does not begin with the episodes it began with before.
        """
        every = np.random.SeedSequence([seed, 0xE27, iteration]).generate_state(self.share.total, np.uint32)
        seeds: Any = [int(each) for each in every[self.share.slice]]
        observations, _ = self.vector.reset(seed=seeds)
        return self._observe(observations)

    def step(self, actions: np.ndarray) -> StepResult:
        observations, rewards, terminated, truncated, info = self.vector.step(actions)
        rewards = np.asarray(rewards, dtype=np.float32)
        final = info.get("final_obs")
        if final is not None:
            final = self.normalize(rows(final, observations) if final.dtype == object else final)
        learned = rewards
        if self.scaler is not None:
            learned = self.scaler.scale(rewards, terminated | truncated)
        return StepResult(self._observe(observations), learned, rewards, terminated, truncated, final)

    def _observe(self, observations: np.ndarray) -> np.ndarray:
        if self.moments is not None:
            self.seen.append(observations)
        return self.normalize(observations)

    def normalize(self, observations: np.ndarray) -> np.ndarray:
        """Observations as the policy takes them; changes no moments, so evaluations may call it too."""
        if self.moments is not None:
            return self.moments.normalize(observations)
        return observations.astype(self.observation_dtype, copy=False)

    def take_in(self, collectives: Collectives) -> None:
        """Merges into the moments what all ranks have seen; collective, at the end of a rollout."""
        if self.moments is not None:
            self.moments.take_in(np.stack(self.seen), collectives)
            self.seen = []
        if self.scaler is not None:
            self.scaler.take_in(collectives)

    def state(self) -> dict[str, Any]:
        """The moments; equal on all ranks."""
        scaler = None if self.scaler is None else self.scaler.moments.state()
        return {"observations": None if self.moments is None else self.moments.state(), "returns": scaler}

    def load_state(self, state: dict[str, Any]) -> None:
        if self.moments is not None:
            self.moments.load_state(state["observations"])
        if self.scaler is not None:
            self.scaler.moments.load_state(state["returns"])

    def close(self) -> None:
        self.vector.close()


def rows(final: np.ndarray, like: np.ndarray) -> np.ndarray:
    """gymnasium's object array of final observations, None where an episode goes on, as one array."""
    whole = np.zeros_like(like)
    for index, observation in enumerate(final):
        if observation is not None:
            whole[index] = observation
    return whole


def make_environments(settings: EnvSettings, rank: int, size: int, gamma: float = 0.99) -> Environments:
    """`gamma`: the algorithm's discount, by which rewards are scaled where they are."""
    share = share_of(settings.count, rank, size)
    native = native_class(settings)
    backend = settings.backend
    if backend == "auto":
        backend = "native" if native is not None else "sync"
    if backend == "native":
        if native is None:
            raise BadInput(
                f"env.backend = 'native': {settings.id} has no vector class that this project knows (or env.wrappers "
                "is set); it may be 'auto', 'sync' or 'workers'"
            )
        return Environments(make_native(settings, share.count), share, backend, settings, gamma)
    makers = [lambda: make_environment(settings)] * share.count
    mode = gym.vector.AutoresetMode.SAME_STEP
    if backend == "workers":
        return Environments(gym.vector.AsyncVectorEnv(makers, autoreset_mode=mode), share, backend, settings, gamma)
    return Environments(gym.vector.SyncVectorEnv(makers, autoreset_mode=mode), share, backend, settings, gamma)
