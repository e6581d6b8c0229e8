"""Vector classes that users and gymnasium have registered, in each of gymnasium's ways to begin a new episode.

Such a class is the same experiment on any number of ranks where its environments draw from streams of their own,
seeded one by one. No attribute of gymnasium's tells, so the class says it: `metadata["seeds_per_environment"] = True`,
and `reset` takes a list of seeds. Without it all draw from one stream, whose draws are shared out as episodes happen to
end.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from harness.envs.backends.base import InTurn, StepResult
from harness.envs.conformance import keeps_values
from harness.envs.factory import raised
from harness.envs.settings import EnvSettings
from harness.envs.snapshots.snapshot import Snapshots, put_back
from harness.errors import BadInput
from harness.text import one_line

INDEPENDENT = "seeds_per_environment"


def has_vector_class(settings: EnvSettings) -> bool:
    """Whether a vector class is registered. Wrappers, options of resets, metrics of infos and the preprocessing of
    Atari games need single environments."""
    module, colon, _ = settings.id.partition(":")
    if colon:
        with suppress(ImportError):  # whoever makes the environment tells
            import_module(module)
    spec = gym.registry.get(settings.id.rpartition(":")[2])
    if settings.wrappers or settings.reset_options or settings.info_metrics or settings.game is not None:
        return False
    return spec is not None and spec.vector_entry_point is not None


class Registered(InTurn):
    """A registered vector class. Where it begins an episode in the step after the last one's end (gymnasium's
    NEXT_STEP), that step is marked as no transition: `StepResult.valid` is False there."""

    def __init__(self, settings: EnvSettings, count: int) -> None:
        try:
            self.vector: VectorEnv = gym.make_vec(
                settings.id, num_envs=count, vectorization_mode="vector_entry_point", **settings.kwargs
            )
        except (TypeError, ImportError, gym.error.Error) as error:
            raise BadInput(f"env.id = {settings.id!r} with env.backend = 'native': {one_line(error)}") from None
        except Exception as error:
            raise BadInput(f"env.id = {settings.id!r} with env.backend = 'native': {raised(error)}") from error
        observation_space = self.vector.single_observation_space
        if not isinstance(observation_space, spaces.Box):
            self.vector.close()
            kind = type(observation_space).__name__
            raise BadInput(f"env.id = {settings.id!r} has {kind} observations with env.backend = 'native', not a Box")
        action_space = self.vector.single_action_space
        if any(isinstance(space, spaces.Box) and space.shape == () for space in (observation_space, action_space)):
            self.vector.close()
            raise BadInput(
                f"env.id = {settings.id!r} has observations or actions of shape () with env.backend = 'native', where "
                "they must be vectors; env.backend may be 'sync' or 'workers'"
            )
        super().__init__("native", count, observation_space, action_space)
        self.where = f"env.id = {settings.id!r} with env.backend = 'native'"
        self.mode = self.vector.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.snapshots = Snapshots()
        self.independent = bool(self.vector.metadata.get(INDEPENDENT))
        self.begins = np.zeros(count, dtype=bool)
        """Environments whose next step only begins an episode (NEXT_STEP)."""
        notices = []
        if not self.independent:
            notices.append("draws for all its environments together: other numbers of ranks see other episodes")
        if self.mode == AutoresetMode.NEXT_STEP:
            notices.append("begins each episode in a step of its own, from which nothing is learned")
        if notices:
            self.notice = f"{settings.id}'s own vector class {', and '.join(notices)}"

    @property
    def same_experiment(self) -> bool:
        """Whether its episodes are the same on any number of ranks, without steps that are none."""
        return self.independent and self.mode in (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)

    def reset(self, seeds: list[int]) -> np.ndarray:
        seed: Any = seeds if self.independent else seeds[0]
        with self.snapshots.resetting([self.vector]):
            observations, _ = self.vector.reset(seed=seed)
        self.begins = np.zeros(self.count, dtype=bool)
        array, space = np.array(observations), self.observation_space
        shape = (self.count, *space.shape)
        if array.shape != shape or array.dtype.kind not in "biuf" or not keeps_values(array.dtype, space.dtype):
            raise BadInput(
                f"{self.where}: reset gives observations of shape {array.shape} and {array.dtype}, and its "
                f"observation_space says {shape} and {space.dtype}"
            )
        return array

    def step(self, actions: np.ndarray) -> StepResult:
        observations, given, terminated, truncated, info = self.vector.step(actions)
        rewards = np.array(given, dtype=np.float32)
        observations, valid, final = np.array(observations), None, None
        terminated, truncated = np.array(terminated, dtype=bool), np.array(truncated, dtype=bool)
        if self.mode == AutoresetMode.NEXT_STEP and self.begins.any():
            valid = ~self.begins
            terminated &= valid
            truncated &= valid
            rewards[self.begins] = 0.0
        done = terminated | truncated
        self.begins = done
        if done.any():
            final = observations
            if self.mode == AutoresetMode.SAME_STEP:
                final = last_observations(info, observations)
            elif self.mode == AutoresetMode.DISABLED:
                begun, _ = self.vector.reset(options={"reset_mask": done})
                observations = np.where(done.reshape(-1, *[1] * (observations.ndim - 1)), begun, final)
        return StepResult(observations, rewards, rewards, terminated, truncated, final, valid=valid)

    def state(self) -> dict[str, Any] | None:
        """All of the vector's, with each of its environments: they go on together or not at all."""
        together = self.snapshots.take([self.vector])[0]
        if together is None:
            return None
        return {
            "envs": [{"row": row, "of": self.count, "all": None if row else together} for row in range(self.count)],
            "begins": self.begins.copy(),
        }

    def load_state(self, state: dict[str, Any]) -> np.ndarray:
        envs = state["envs"]
        whole = [(each["row"], each["of"]) for each in envs] == [(row, self.count) for row in range(self.count)]
        if not whole or not put_back(self.vector, envs[0]["all"]):
            return np.zeros(self.count, dtype=bool)
        self.begins = state["begins"].copy()
        return np.ones(self.count, dtype=bool)

    def close(self) -> None:
        self.vector.close()


def last_observations(info: dict[str, Any], like: np.ndarray) -> np.ndarray:
    """gymnasium's `final_obs` (an object array, None where an episode goes on, or a plain one) as one array."""
    final = info.get("final_obs")
    if final is None:
        raise KeyError("the vector class resets in the same step but gives no info['final_obs'] where an episode ended")
    final = np.asarray(final)
    if final.dtype != object:
        return final.copy()
    whole = np.zeros_like(like)
    for index, observation in enumerate(final):
        if observation is not None:
            whole[index] = observation
    return whole
