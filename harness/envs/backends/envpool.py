"""EnvPool (Weng et al. 2022, https://arxiv.org/abs/2206.10558): environments in C++, stepped by threads.

Each environment has a seed and a stream of its own, so that N ranks see the episodes that one sees. They are others
than gymnasium's from the same seed, alike in distribution.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
from gymnasium import spaces

from harness.envs.backends.base import InTurn, StepResult
from harness.envs.making import one_line
from harness.envs.settings import EnvSettings
from harness.errors import BadInput

SAME = {
    *("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"),
    *("LunarLander-v3", "LunarLanderContinuous-v3"),
    *("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Swimmer-v5", "Reacher-v5", "Pusher-v5"),
    *("InvertedPendulum-v5", "InvertedDoublePendulum-v5", "Humanoid-v5", "HumanoidStandup-v5"),
}
"""Environments whose observations, rewards and time limits are gymnasium's, as the tests compare. Of those that have
the same name, BipedalWalker's begin and end otherwise; Atari's are other environments altogether."""
SLOWER = {"CartPole-v1", "MountainCarContinuous-v0"}
"""Where gymnasium's are quicker, at least for few environments (tests/benchmarks/environments.py)."""


def installed() -> bool:
    return find_spec("envpool") is not None


def check_envpool(settings: EnvSettings) -> None:
    """BadInput where EnvPool cannot take gymnasium's place for these settings."""
    asked = "env.backend = 'envpool'"
    if settings.wrappers:
        raise BadInput(
            f"{asked} steps environments in C++, which env.wrappers cannot wrap; it may be 'sync' or 'workers'"
        )
    if settings.id not in SAME:
        raise BadInput(
            f"{asked}: EnvPool has no {settings.id} with gymnasium's observations, rewards and time limits; it has "
            f"{', '.join(sorted(SAME))}; env.backend may be 'auto', 'sync' or 'workers'"
        )
    if set(settings.kwargs) - {"max_episode_steps"}:
        raise BadInput(f"{asked} takes max_episode_steps alone of env.kwargs, got {settings.kwargs}")
    if not installed():
        raise BadInput(f"{asked} needs the extra 'envpool', which is not installed: pip install -e '.[envpool]'")


def prefers_envpool(settings: EnvSettings) -> bool:
    """Whether `auto` takes it."""
    try:
        check_envpool(settings)
    except BadInput:
        return False
    return settings.id not in SLOWER


class EnvPool(InTurn):
    """EnvPool's environments begin their next episode in the step after the end, whatever its action; they are told to
    begin it at once instead, so that no transition mixes two episodes."""

    def __init__(
        self, settings: EnvSettings, count: int, observation_space: spaces.Box, action_space: spaces.Space, threads: int
    ) -> None:
        """The spaces are gymnasium's. `threads`: how many at most, unless `env.workers` says how many."""
        check_envpool(settings)
        super().__init__("envpool", count, observation_space, action_space)
        # a thread that is woken for less than some environments is not worth it
        self.settings, self.threads = settings, settings.workers or min(threads, max(1, count // 4))

    def reset(self, seeds: list[int]) -> np.ndarray:
        import envpool

        seed: Any = [each % 2**31 for each in seeds]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of bounds that are cast to float32
            try:
                self.pool: Any = envpool.make(
                    self.settings.id,
                    "gymnasium",
                    num_envs=self.count,
                    env_seed=seed,
                    num_threads=self.threads,
                    **self.settings.kwargs,
                )
            except (ValueError, TypeError, AssertionError) as error:
                raise BadInput(f"EnvPool does not make {self.settings.id!r}: {one_line(error)}") from None
            observations, _ = self.pool.reset()
        return observations

    def step(self, actions: np.ndarray) -> StepResult:
        observations, rewards, terminated, truncated, _ = self.pool.step(actions)
        final, done = None, terminated | truncated
        if np.count_nonzero(done):
            final = observations
            begun, info = self.pool.reset(np.flatnonzero(done).astype(np.int32))
            observations = final.copy()
            observations[info["env_id"]] = begun
        return StepResult(observations, rewards, rewards, terminated, truncated, final)

    def close(self) -> None:
        self.pool = None
