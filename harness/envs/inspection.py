"""One environment, made, reset and stepped a few times before a run: what it does, against what it says it does.

What would be cast, broadcast or misread later, without a word or as a traceback in the midst of a run, is refused here
in one line. What is only worth knowing is noticed. The environment stays open until the run takes it for one of its
own, so that one that takes long to be made, or that can be open only once, is not made again.
"""

from __future__ import annotations

import copy
import random
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, TimeLimit

from harness.envs.factory import close_quietly, make_environment, raised
from harness.envs.settings import EnvSettings
from harness.envs.snapshots.snapshot import layers, put_back, speaks_for_itself, state_of
from harness.errors import BadInput

STEPS = 5
SECONDS = 0.2
"""After which no more steps are made."""
LARGEST_SEED = 2**32 - 1
"""Of those that a run gives to its environments."""
LEARNS: dict[type, str] = {
    NormalizeObservation: "env.normalize_observations",
    NormalizeReward: "env.normalize_rewards",
}
"""Wrappers that learn from what passes through them, and the settings that do it for all environments."""
LIMITS = ("max_episode_steps", "_max_episode_steps", "max_steps", "max_episode_length", "episode_length")
"""What environments call a limit on the steps of an episode that they keep themselves."""
INTERFACE = "observation, reward, terminated, truncated, info"


@dataclass
class Inspection:
    """What was found."""

    identity: tuple[Any, ...]
    observation_space: spaces.Box
    action_space: spaces.Space
    frame_stack: Any
    """What its metadata have as `frame_stack`."""
    notices: tuple[str, ...]
    """Lines for the user."""
    env: gym.Env | None
    """While nobody has taken it."""


latest: Inspection | None = None
"""Of this process."""


def inspect_environment(settings: EnvSettings) -> Inspection:
    """Makes one environment and looks at what it does; BadInput where it cannot be used as it is. What was found of the
    same settings before is not looked for again."""
    global latest
    found = inspected(settings)
    if found is None:
        close_spare()
        with warnings.catch_warnings(record=True) as told:  # what is refused is told in one line
            env = make_environment(settings)
        for each in told:
            warnings.showwarning(each.message, each.category, each.filename, each.lineno)
        try:
            found = latest = looked_at(env, settings)
        except BaseException:
            close_quietly(env)
            raise
    return found


def inspected(settings: EnvSettings) -> Inspection | None:
    """What is known already of such environments."""
    return latest if latest is not None and latest.identity == identity(settings) else None


def identity(settings: EnvSettings) -> tuple[Any, ...]:
    made_of = settings.model_dump(include={"id", "kwargs", "wrappers", "reset_options", "atari"})
    return made_of, id(gym.registry.get(settings.id.rpartition(":")[2]))


def take_spare(settings: EnvSettings) -> gym.Env | None:
    """The environment that was looked at, for the caller to keep and to close; None where there is none such."""
    found = inspected(settings)
    if found is None:
        return None
    env, found.env = found.env, None
    return env


@contextmanager
def borrowed(settings: EnvSettings) -> Iterator[gym.Env]:
    """An environment to try something with: the spare one, which is then put back to what it was, or one of its own."""
    found = inspected(settings)
    env = None if found is None else found.env
    if env is None:
        env = make_environment(settings)
        try:
            yield env
        finally:
            env.close()
        return
    before = state_before(env)
    with untouched_generators():
        yield env
    if not leaves_no_trace(env, before):
        close_spare()


def close_spare() -> None:
    if latest is not None and latest.env is not None:
        close_quietly(latest.env)
        latest.env = None


def check_environment(settings: EnvSettings) -> tuple[spaces.Box, spaces.Space]:
    """The observation and action space; BadInput where they cannot be used."""
    found = inspected(settings)
    if found is not None:
        return found.observation_space, found.action_space
    env = make_environment(settings)
    try:
        return spaces_of(env, settings)
    finally:
        close_quietly(env)


def spaces_of(env: gym.Env, settings: EnvSettings) -> tuple[spaces.Box, spaces.Space]:
    where = f"env.id = {settings.id!r}"
    for name in ("observation_space", "action_space"):
        space = getattr(env, name, None)
        if not isinstance(space, spaces.Space):
            kind = "none" if space is None else f"one of {type(space).__module__}.{type(space).__qualname__}"
            raise BadInput(f"{where} must have an {name} of gymnasium.spaces, got {kind}")
    observation, action = env.observation_space, env.action_space
    if not isinstance(observation, spaces.Box):
        kind = type(observation).__name__
        flattens = "env.wrappers = ['gymnasium.wrappers:FlattenObservation'] flattens them"
        if not observation.is_np_flattenable:
            flattens = "a wrapper of your own in env.wrappers may make one of them"
        raise BadInput(f"{where} has {kind} observations; they must be a Box: {flattens}")
    if 0 in observation.shape:
        raise BadInput(f"{where} has observations of shape {observation.shape}, with nothing in them")
    return observation, action


# -- what it does ------------------------------------------------------------------------------------------------------


def looked_at(env: gym.Env, settings: EnvSettings) -> Inspection:
    observation_space, action_space = spaces_of(env, settings)
    refuse_learning(env, settings)
    notices = [*without_limit(env, settings), *with_statistics(env, settings)]
    before = state_before(env)
    try:
        with untouched_generators():
            notices += Trial(env, settings, observation_space, action_space).notices
    except BadInput as error:
        raise of_old_interface(env, settings) or error from None
    spare: gym.Env | None = env
    if not leaves_no_trace(env, before):
        close_quietly(env)
        spare = None
    stack = env.metadata.get("frame_stack", 1)
    return Inspection(identity(settings), observation_space, action_space, stack, tuple(notices), spare)


@contextmanager
def untouched_generators() -> Iterator[None]:
    """What Python, numpy and torch draw from for a whole process goes on as if nothing had been drawn meanwhile."""
    torch = sys.modules.get("torch")
    ours, numpys = random.getstate(), np.random.get_state()
    torchs = None if torch is None else torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)
        if torch is not None:
            torch.set_rng_state(torchs)


def state_before(env: gym.Env) -> list[Any] | None:
    """Of one that was never reset; None where it cannot be had, as of one that says itself what that is: it need not be
    able to yet."""
    return None if any(speaks_for_itself(layer) for layer in layers(env)) else state_of(env)


def leaves_no_trace(env: gym.Env, before: list[Any] | None) -> bool:
    """Puts it back to what it was, as far as that is known; False where it may be neither that nor what a reset
    leaves."""
    return before is None or put_back(env, before)


class Trial:
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


# -- what it is wrapped in ---------------------------------------------------------------------------------------------


def refuse_learning(env: gym.Env, settings: EnvSettings) -> None:
    """BadInput where a wrapper learns what all environments, ranks and evaluations should share."""
    for layer in layers(env):
        for kind, setting in LEARNS.items():
            if isinstance(layer, kind) and getattr(layer, "update_running_mean", True):
                raise BadInput(
                    f"env.id = {settings.id!r} is wrapped in {type(layer).__name__}, which learns in each environment "
                    f"by itself: ranks and evaluations would see other numbers than training; {setting} = true learns "
                    "for all of them, where the algorithm allows it, and a wrapper with constant numbers learns nothing"
                )


def with_statistics(env: gym.Env, settings: EnvSettings) -> list[str]:
    """Of wrappers that are not known, what looks as if it were learned."""
    said = []
    for layer in layers(env)[:-1]:
        if isinstance(layer, tuple(LEARNS)):
            continue
        names = [name for name, value in vars(layer).items() if is_statistics(value)]
        if names:
            said.append(
                f"{settings.id}'s wrapper {type(layer).__name__} keeps statistics ({', '.join(names)}): where it "
                "learns them, evaluations and other ranks do not share them; env.normalize_observations and "
                "env.normalize_rewards do"
            )
    return said


def is_statistics(value: Any) -> bool:
    """A mean and a variance, or deviation, as attributes that are numbers."""
    if isinstance(value, (np.ndarray, np.generic)) or not hasattr(value, "__dict__"):
        return False
    names = set(vars(value))
    return "mean" in names and bool(names & {"var", "std", "variance", "S", "M2", "m2"})


def without_limit(env: gym.Env, settings: EnvSettings) -> list[str]:
    """Where nothing but the environment itself ends an episode."""
    spec, inner = env.spec, env.unwrapped
    limited = any(isinstance(layer, TimeLimit) for layer in layers(env))
    limited |= any(isinstance(getattr(inner, name, None), (int, float)) for name in LIMITS)
    limited |= spec is not None and (spec.max_episode_steps is not None or "max_num_frames_per_episode" in spec.kwargs)
    if limited:
        return []
    return [
        f"{settings.id} has no time limit: its episodes last until it ends them itself; "
        "env.kwargs.max_episode_steps = N cuts them after N steps"
    ]
