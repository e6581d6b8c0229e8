"""One environment from its settings; what cannot be made is refused in one line that says what to do."""

from __future__ import annotations

import copy
import difflib
import os
import re
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from harness.envs.settings import EnvSettings, is_atari
from harness.errors import BadInput
from harness.settings import named_object
from harness.text import one_line

EXTRAS = {
    "box2d": ("LunarLander", "BipedalWalker", "CarRacing"),
    "mujoco": (
        *("Ant-", "HalfCheetah-", "Hopper-", "Humanoid", "InvertedDoublePendulum-", "InvertedPendulum-"),
        *("Pusher-", "Reacher-", "Swimmer-", "Walker2d-"),
    ),
    "atari": ("ALE/", "Pong", "Breakout"),
}

OURS = ("harness", "gymnasium", "importlib", "numpy")
"""Packages whose lines tell a user nothing of what is wrong in theirs."""


def make_environment(settings: EnvSettings, **kwargs: Any) -> gym.Env:
    """The environment with its wrappers; raises BadInput where it does not exist, its extra is not installed, or it
    cannot be made, whatever its constructor raised."""
    env = bare(settings, **kwargs)
    try:
        env = wrapped(env, settings)
    except BadInput:
        close_quietly(env)
        raise
    if settings.reset_options:
        env = ResetWith(env, settings.reset_options)
    return OneNumber(env) if () in shapes_of(env) else env


def bare(settings: EnvSettings, **kwargs: Any) -> gym.Env:
    """Without the wrappers of the settings."""
    module = settings.id.partition(":")[0] if ":" in settings.id else None
    if module is not None and not exists(module):
        raise BadInput(f"env.id = {settings.id!r}: there is no module {module!r} on the path of this directory")
    try:
        env = registered(settings, **{**settings.kwargs, **kwargs})
    except gym.error.DependencyNotInstalled as error:
        raise BadInput(f"env.id = {settings.id!r} {missing_extra(settings.id, error)}") from None
    except (gym.error.UnregisteredEnv, gym.error.NamespaceNotFound) as error:
        if extra_of(settings.id) == "atari" and not exists("ale_py"):
            raise BadInput(f"env.id = {settings.id!r} {missing_extra(settings.id, error)}") from None
        raise BadInput(f"env.id = {settings.id!r} does not exist; {nearest(settings.id)}") from None
    except ModuleNotFoundError as error:
        raise BadInput(f"env.id = {settings.id!r} {missing_extra(settings.id, error)}") from None
    except ImportError as error:
        raise BadInput(f"env.id = {settings.id!r}: {one_line(error)}") from None
    except (TypeError, gym.error.Error) as error:
        problem = one_line(error) + place_in(error)
        raise BadInput(f"env.id = {settings.id!r} with env.kwargs = {settings.kwargs}: {problem}") from None
    except (Exception, SystemExit) as error:
        unloaded = "MUJOCO_GL" in os.environ and "mujoco" not in sys.modules and extra_of(settings.id) == "mujoco"
        if unloaded and isinstance(error, (AttributeError, RuntimeError)):
            drawn_by = f"MUJOCO_GL = {os.environ['MUJOCO_GL']!r}, which may be unset, egl, osmesa or glfw"
            problem = f"env.id = {settings.id!r} cannot be imported with {drawn_by}: {one_line(error)}"
            raise BadInput(problem) from None
        given = f" with env.kwargs = {settings.kwargs}" if settings.kwargs else ""
        raise BadInput(f"env.id = {settings.id!r} cannot be made{given}: {raised(error)}") from error
    return env


def wrapped(env: gym.Env, settings: EnvSettings) -> gym.Env:
    """In the wrappers of the settings; BadInput where one of them cannot wrap it."""
    for each in settings.wrappers:
        name, kwargs = (each, {}) if isinstance(each, str) else (each.class_, each.kwargs)
        wrap = named_object(name, "env.wrappers")
        where = f"env.wrappers: {name!r}" + (f" with kwargs = {kwargs}" if kwargs else "")
        try:
            env = wrap(env, **kwargs)
        except (Exception, SystemExit) as error:
            raise BadInput(f"{where} cannot wrap {settings.id}: {raised(error)}") from error
        if not isinstance(env, gym.Env):
            raise BadInput(f"{where} must give a gymnasium environment, got {type(env).__name__}")
    return env


class ResetWith(gym.Wrapper):
    """Gives each reset the same options."""

    def __init__(self, env: gym.Env, options: dict[str, Any]) -> None:
        super().__init__(env)
        self.options = options

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=seed, options=copy.deepcopy(self.options) if options is None else options)


class OneNumber(gym.Wrapper):
    """Numbers of shape () as vectors of one, which networks and replays take: observations, actions, or both."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.sees, self.acts = (shape == () for shape in shapes_of(env))
        if self.sees:
            self.observation_space = as_vector(env.observation_space)
        if self.acts:
            self.action_space = as_vector(env.action_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self.seen(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, *rest = self.env.step(np.asarray(action).reshape(()) if self.acts else action)
        return self.seen(observation), *rest

    def seen(self, observation: Any) -> Any:
        """Of another shape it stays, to be refused as such."""
        return np.asarray(observation)[None] if self.sees and np.shape(observation) == () else observation


def shapes_of(env: gym.Env) -> list[tuple[int, ...] | None]:
    """Of observations and actions, where they are Boxes."""
    both = getattr(env, "observation_space", None), getattr(env, "action_space", None)
    return [space.shape if isinstance(space, spaces.Box) else None for space in both]


def as_vector(space: Any) -> spaces.Box:
    return spaces.Box(space.low[None], space.high[None], dtype=space.dtype)


def registered(settings: EnvSettings, **kwargs: Any) -> gym.Env:
    if is_atari(settings.id):
        import_module("ale_py")  # registers its games
    if settings.game is None:
        return gym.make(settings.id, disable_env_checker=True, **kwargs)
    from harness.envs.games.atari import make_game

    return make_game(settings.id, settings.game, **kwargs)


def number_of(reward: Any) -> float:
    """A reward that may be an array of one number."""
    try:
        return float(reward)
    except (TypeError, ValueError):
        return float(np.asarray(reward).item())


def exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a parent package that is missing, or no name of a module
        return False


def extra_of(env_id: str) -> str | None:
    if is_atari(env_id):
        return "atari"
    for extra, prefixes in EXTRAS.items():
        if env_id.startswith(prefixes):
            return extra
    return None


def missing_extra(env_id: str, error: Exception) -> str:
    extra = extra_of(env_id)
    if extra is None:
        return f"needs a package that is not installed: {one_line(error)}"
    return f"needs the extra '{extra}', which is not installed: pip install -e '.[{extra}]'"


def nearest(env_id: str) -> str:
    game = re.fullmatch(r"(?:ALE/)?(\w+?)(?:Deterministic|NoFrameskip|-ram)*-v\d+", env_id)
    if game is not None and exists("ale_py"):
        import_module("ale_py")
        if f"ALE/{game[1]}-v5" in gym.registry:
            return f"the game may be ALE/{game[1]}-v5 or {game[1]}NoFrameskip-v4"
    known = sorted(str(name) for name in gym.registry)
    near = difflib.get_close_matches(env_id, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}It may be a registered gymnasium id or module:Name-v0".strip()


def raised(error: BaseException) -> str:
    """What code of the user's raised, in a line, and where in it."""
    return f"{type(error).__name__}: {one_line(error)}".removesuffix(": ") + place_in(error)


def place_in(error: BaseException) -> str:
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    names = [str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame, _ in frames]
    theirs = [each for each, name in zip(frames, names) if name not in OURS]
    if not theirs:
        return ""
    frame, line = theirs[-1]
    return f" ({os.path.basename(frame.f_code.co_filename)}, line {line})"


def close_quietly(env: gym.Env) -> None:
    """What is wrong with it is told already, or nobody asks."""
    with suppress(Exception):
        env.close()
