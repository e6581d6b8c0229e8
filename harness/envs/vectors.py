"""A rank's share of the environments, stepped together; the same episodes on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from harness.envs.backends.base import StepResult, Vector
from harness.envs.backends.selection import choose_backend, make_vector
from harness.envs.normalization import ReturnScaler, RunningMoments
from harness.envs.settings import EnvSettings
from harness.envs.share import Share, share_of

if TYPE_CHECKING:
    from harness.distributed.transports.base import Communicator


def observation_dtype(space: spaces.Box, normalized: bool = False) -> np.dtype:
    """Of observations as the policy takes them: bytes stay bytes."""
    return np.dtype(np.uint8 if space.dtype == np.uint8 and not normalized else np.float32)


class Environments:
    """Steps this rank's share. Environment i of all is seeded by i, wherever it runs.

    `step` steps all of them. Where `groups` has more than one, `send` and `receive` step one group while the policy
    acts for another; what comes of it is the same. Observations and rewards are normalised where the settings ask for
    it, by moments that stand still until `merge` merges what all ranks have seen since.
    """

    def __init__(self, vector: Vector, share: Share, settings: EnvSettings, gamma: float) -> None:
        self.vector, self.share, self.settings = vector, share, settings
        self.count, self.backend, self.groups = share.count, vector.backend, vector.groups
        self.observation_space, self.action_space = vector.observation_space, vector.action_space
        self.moments = RunningMoments(self.observation_space.shape) if settings.normalize_observations else None
        self.scaler = ReturnScaler(share.count, gamma) if settings.normalize_rewards else None
        self.observation_dtype = observation_dtype(self.observation_space, self.moments is not None)
        self.clips_rewards = settings.game is not None and settings.game.clip_rewards
        self.as_they_come = (
            self.moments is self.scaler is None
            and not self.clips_rewards
            and self.observation_space.dtype == self.observation_dtype
        )
        self.seen: list[np.ndarray] = []

    def reset(self, seed: int, iteration: int = 0) -> np.ndarray:
        """(envs, *obs_shape): first observations. They follow from the run's seed, and from the `iteration` that a
        resumed run goes on with, so that it does not begin with the episodes it began with before.
        """
        every = np.random.SeedSequence([seed, 0xE27, iteration]).generate_state(self.share.total, np.uint32)
        observations = self.vector.reset([int(each) for each in every[self.share.slice]])
        self.seen = []  # what an earlier reset began was never acted on
        return self._observe(observations)

    def step(self, actions: np.ndarray) -> StepResult:
        """One step of all environments."""
        for group, rows in enumerate(self.groups):
            self.send(actions[rows], group)
        results = [self.receive(group) for group in range(len(self.groups))]
        return results[0] if len(results) == 1 else joined(results)

    def send(self, actions: np.ndarray, group: int = 0) -> None:
        """Starts a step of the environments `groups[group]`, by an action for each."""
        self.vector.send(actions, group)

    def receive(self, group: int = 0) -> StepResult:
        """The step that `send` started; groups are received in the order in which they were sent."""
        result = self.vector.receive(group)
        if self.as_they_come:
            return result
        if self.clips_rewards:
            result.rewards = np.sign(result.true_rewards)
        if self.scaler is not None:
            done = result.terminated | result.truncated
            result.rewards = self.scaler.scale(result.rewards, done, self.groups[group], result.valid)
        result.observations = self._observe(result.observations)
        if result.final_observations is not None:
            final = result.final_observations
            result.final_observations = self.normalize(final)
            if self.moments is not None:  # clipped, an infinite number would look like one
                result.final_observations[~np.isfinite(final)] = np.nan
        return result

    def _observe(self, observations: np.ndarray) -> np.ndarray:
        if self.moments is not None:
            self.seen.append(observations)
        return self.normalize(observations)

    def seen_in_steps(self, steps: int) -> list[np.ndarray]:
        """Where observations are normalised: (envs, *obs_shape) as they came, of each of the last `steps`, and of the
        reset before them if there was one."""
        groups = len(self.groups)
        before, last = np.split(np.arange(len(self.seen)), [len(self.seen) - steps * groups])
        found = [self.seen[at] for at in before.tolist() if len(self.seen[at]) == self.count]
        return found + [np.concatenate([self.seen[at] for at in step]) for step in last.reshape(steps, groups).tolist()]

    def normalize(self, observations: np.ndarray) -> np.ndarray:
        """Observations as the policy takes them; changes no moments, so evaluations may call it too."""
        if self.moments is not None:
            return self.moments.normalize(observations)
        return observations.astype(self.observation_dtype, copy=False)

    def merge(self, communicator: Communicator) -> None:
        """Merges into the moments what all ranks have seen; collective, at the end of a rollout."""
        if self.moments is not None:
            self.moments.merge(np.concatenate(self.seen), communicator)
            self.seen = []
        if self.scaler is not None:
            self.scaler.merge(communicator)

    def state(self) -> dict[str, Any]:
        """The moments; equal on all ranks."""
        scaler = None if self.scaler is None else self.scaler.moments.state()
        return {"observations": None if self.moments is None else self.moments.state(), "returns": scaler}

    def load_state(self, state: dict[str, Any]) -> None:
        if self.moments is not None:
            self.moments.load_state(state["observations"])
        if self.scaler is not None:
            self.scaler.moments.load_state(state["returns"])

    def local_state(self) -> dict[str, Any]:
        """The state of this rank's environments, while no step is under way; see `Vector.state`."""
        scaled = None if self.scaler is None else self.scaler.returns.copy()
        return {"vector": self.vector.state(), "returns": scaled}

    def load_local_state(self, state: dict[str, Any], begun: np.ndarray) -> np.ndarray:
        """After a reset, whose observations are `begun` (envs, …): bool (envs,), which environments continue from the
        `local_state` of before; the others begin an episode."""
        goes_on = np.zeros(self.count, dtype=bool)
        if state["vector"] is not None:
            goes_on = self.vector.load_state(state["vector"])
        if self.moments is not None:
            self.seen = [part[~goes_on] for part in self.seen]
        if self.scaler is not None:
            self.scaler.returns[goes_on] = state["returns"][goes_on]
        return goes_on

    def restart_episodes(
        self, seed: int, iteration: int, before: dict[str, Any] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """After others have stepped the vector: bool (envs,), which environments continue from the vector's state
        `before` that; and first observations (envs, …) of the others, which begin new episodes."""
        observations = self.reset(seed, iteration)
        own = {"vector": before, "returns": None if self.scaler is None else self.scaler.returns.copy()}
        goes_on = self.load_local_state(own, observations)
        if self.scaler is not None:
            self.scaler.returns[~goes_on] = 0.0
        return goes_on, observations

    def close(self) -> None:
        self.vector.close()


def joined(results: list[StepResult]) -> StepResult:
    """The groups' results as one, in their order."""

    def one(name: str) -> np.ndarray:
        return np.concatenate([getattr(result, name) for result in results])

    def one_or_none(name: str, missing: Callable[[StepResult], np.ndarray]) -> np.ndarray | None:
        parts = [getattr(result, name) for result in results]
        if all(part is None for part in parts):
            return None
        return np.concatenate([missing(each) if part is None else part for each, part in zip(results, parts)])

    return StepResult(
        one("observations"),
        one("rewards"),
        one("true_rewards"),
        one("terminated"),
        one("truncated"),
        one_or_none("final_observations", lambda result: result.observations),
        one_or_none("lives_lost", lambda result: np.zeros(len(result.rewards), dtype=bool)),
        one_or_none("valid", lambda result: np.ones(len(result.rewards), dtype=bool)),
        joined_metrics(results),
    )


def joined_metrics(results: list[StepResult]) -> np.ndarray | None:
    named = next((result.info_metrics for result in results if result.info_metrics is not None), None)
    if named is None:
        return None
    nothing = [np.full((len(result.rewards), named.shape[1]), np.nan) for result in results]
    parts = zip(results, nothing)
    return np.concatenate([none if each.info_metrics is None else each.info_metrics for each, none in parts])


def make_environments(settings: EnvSettings, rank: int, size: int, gamma: float = 0.99, cores: int = 1) -> Environments:
    """`gamma`: the algorithm's discount, by which rewards are scaled where they are. `cores`: this rank's.

    Where ranks must take the same backend, they agree on `choose_backend` first.
    """
    share = share_of(settings.count, rank, size)
    settings = choose_backend(settings, share.count, cores)
    return Environments(make_vector(settings, share.count, share.first, cores), share, settings, gamma)
