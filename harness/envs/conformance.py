"""What an environment does in some steps, against what it says it does."""

from __future__ import annotations

import copy
import re
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from harness.envs.factory import raised
from harness.envs.settings import EnvSettings
from harness.errors import BadInput

STEPS = 5
SECONDS = 0.2
"""After which no more steps are made."""
LARGEST_SEED = 2**32 - 1
"""Of those that a run gives to its environments."""
INTERFACE = "observation, reward, terminated, truncated, info"


class Conformance:
    """Some steps by actions of the action space, each answer looked at."""

    def __init__(
        self, env: gym.Env, settings: EnvSettings, observation_space: spaces.Box, action_space: spaces.Space
    ) -> None:
        self.env, self.where, self.space = env, f"env.id = {settings.id!r}", observation_space
        self.outside = self.array_rewards = False
        actions = copy.deepcopy(action_space)  # the environment may draw from its own
        actions.seed(0)
        self.reset_with_seed()
        until = time.perf_counter() + SECONDS
        for step in range(STEPS):
            if self.step(actions.sample()):
                self.look(self.reset(), "reset")
            if time.perf_counter() > until:
                break

    @property
    def notices(self) -> list[str]:
        name, said = self.where.removeprefix("env.id = "), []
        if self.outside:
            said.append(f"{name} gives observations outside the bounds of its observation_space, {self.space}")
        if self.array_rewards:
            said.append(f"{name} gives rewards in arrays: they are taken for the one number in each")
        return said

    def reset_with_seed(self) -> None:
        """By the largest seed that a run may give, so that none of them fails hours later."""
        try:
            given = self.env.reset(seed=LARGEST_SEED)
        except Exception as error:
            self.look(self.reset(seed=1), "reset")
            raise BadInput(
                f"{self.where}: reset must take any seed from 0 to {LARGEST_SEED}, and with {LARGEST_SEED} it raised "
                f"{raised(error)}; seed % 2**31 in it, or in a wrapper, makes it smaller"
            ) from error
        self.look(given, "reset")

    def reset(self, seed: int | None = None) -> Any:
        try:
            return self.env.reset(seed=seed)
        except Exception as error:
            signature = isinstance(error, TypeError) and "argument" in str(error)
            due = "; it must be reset(self, *, seed=None, options=None)" if signature else ""
            raise BadInput(f"{self.where}: reset raised {raised(error)}{due}") from error

    def look(self, given: Any, what: str) -> None:
        """At what a reset gave."""
        if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], dict)):
            raise BadInput(f"{self.where}: reset must give (observation, info), and gives {kind_of(given)}")
        self.look_at_observation(given[0], what)

    def step(self, action: Any) -> bool:
        """Whether the episode is over."""
        try:
            given = self.env.step(action)
        except Exception as error:
            taken = " ".join(repr(action).split())
            raise BadInput(f"{self.where}: step by {taken} of its action_space raised {raised(error)}") from error
        if not (isinstance(given, tuple) and len(given) == 5):
            raise BadInput(f"{self.where}: step must give ({INTERFACE}), and gives {kind_of(given)}")
        observation, reward, terminated, truncated, info = given
        self.look_at_observation(observation, "step")
        self.look_at_reward(reward)
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if np.shape(flag) != () or np.asarray(flag).dtype.kind not in "bui":
                raise BadInput(f"{self.where}: step must give True or False as {name}, and gives {kind_of(flag)}")
        if not isinstance(info, dict):
            raise BadInput(f"{self.where}: step must give a dict as info, and gives {kind_of(info)}")
        return bool(terminated or truncated)

    def look_at_observation(self, observation: Any, what: str) -> None:
        space, gives = self.space, f"{self.where}: {what} gives an observation"
        try:
            array = np.asarray(observation)
        except ValueError:  # lists of unequal lengths
            array = np.asarray(None)
        if array.dtype.kind not in "biuf":
            raise BadInput(f"{gives} that is {kind_of(observation)}, and its observation_space says {space}")
        if array.shape != space.shape:
            raise BadInput(f"{gives} of shape {array.shape}, and its observation_space says {space.shape}: {space}")
        if not keeps_values(array.dtype, space.dtype):
            raise BadInput(f"{gives} of {array.dtype}, and its observation_space says {space.dtype}: {space}")
        if not np.isfinite(array).all():
            raise BadInput(f"{gives} with {first_non_finite(array)} in it")
        array = array.astype(space.dtype, copy=False)
        self.outside |= bool(((array < space.low) | (array > space.high)).any())

    def look_at_reward(self, reward: Any) -> None:
        array = np.asarray(reward)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise BadInput(f"{self.where}: step must give one number as reward, and gives {kind_of(reward)}")
        if not np.isfinite(array).all():
            raise BadInput(f"{self.where}: step gives a reward of {reward}")
        self.array_rewards |= array.ndim > 0


def keeps_values(given: np.dtype, said: np.dtype) -> bool:
    """Whether numbers of one kind stay what they are as the other: floats may lose digits, but not become whole
    numbers, nor may these wrap around where the other has few of them."""
    few = said.kind in "bu" or said.kind == "i" and said.itemsize < 4
    return np.can_cast(given, said, "safe" if few else "same_kind")


def kind_of(given: Any) -> str:
    """Something that is not what it should be, in few words."""
    if isinstance(given, tuple):
        return f"a tuple of {len(given)}: ({', '.join(type(each).__name__ for each in given)})"
    if isinstance(given, (np.ndarray, np.generic)):
        return f"an array of shape {given.shape} and {given.dtype}"
    return "None" if given is None else f"a {type(given).__name__}"


def first_non_finite(array: np.ndarray) -> str:
    return str(array[~np.isfinite(array)][0])


def of_old_interface(env: gym.Env, settings: EnvSettings) -> BadInput | None:
    """Where the environment inside all wrappers speaks the interface of gym before 0.26, which wrappers may hide or
    answer with errors of their own."""
    where, inner = f"env.id = {settings.id!r}", env.unwrapped
    due = "before gym 0.26; gymnasium's (observation, info) of reset(seed=…, options=…)"
    try:
        given: Any = inner.reset(seed=1)
    except TypeError as error:
        if re.search(r"unexpected keyword argument '(seed|options)'", str(error)):
            return BadInput(f"{where}: its reset takes no seed, as {due} must be there: {raised(error)}")
        return None
    except Exception:
        return None
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], dict)):
        return BadInput(f"{where}: its reset gives {kind_of(given)} alone, as {due} must be there")
    try:
        given = inner.step(copy.deepcopy(inner.action_space).sample())
    except Exception:
        return None
    if isinstance(given, tuple) and len(given) == 4:
        return BadInput(f"{where}: its step gives 4 values, as before gym 0.26; they must be 5: ({INTERFACE})")
    return None
