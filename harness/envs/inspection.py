"""One environment, made, reset and stepped a few times before a run: what it does, against what it says it does.

What would be cast, broadcast or misread later, without a word or as a traceback in the midst of a run, is refused here
in one line. What is only worth knowing is noticed. The environment stays open until the run takes it for one of its
own, so that one that takes long to be made, or that can be open only once, is not made again.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from harness.envs.conformance import Conformance, of_old_interface
from harness.envs.factory import close_quietly, make_environment
from harness.envs.limits import without_limit
from harness.envs.settings import EnvSettings
from harness.envs.snapshots.snapshot import layers, put_back, speaks_for_itself, state_of
from harness.envs.wrappers import refuse_learning, with_statistics
from harness.errors import BadInput


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
        with warnings.catch_warnings(record=True) as warned:  # what is refused is told in one line
            env = make_environment(settings)
        for each in warned:
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


def claim_spare(settings: EnvSettings) -> gym.Env | None:
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


def forget() -> None:
    """At the end of a run: what was found in its environment is looked for again by the next."""
    global latest
    close_spare()
    latest = None


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
            notices += Conformance(env, settings, observation_space, action_space).notices
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
