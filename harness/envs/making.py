"""One environment from its settings; what cannot be made is refused in one line that says what to do."""

from __future__ import annotations

import difflib
import os
import re
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from harness.envs.settings import EnvSettings, is_atari
from harness.errors import BadInput
from harness.settings import named_object

EXTRAS = {
    "box2d": ("LunarLander", "BipedalWalker", "CarRacing"),
    "mujoco": (
        *("Ant-", "HalfCheetah-", "Hopper-", "Humanoid", "InvertedDoublePendulum-", "InvertedPendulum-"),
        *("Pusher-", "Reacher-", "Swimmer-", "Walker2d-"),
    ),
    "atari": ("ALE/", "Pong", "Breakout"),
}


def make_environment(settings: EnvSettings, **kwargs: Any) -> gym.Env:
    """The environment with its wrappers; raises BadInput where it does not exist or its extra is not installed."""
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
    except (AttributeError, RuntimeError) as error:
        if "MUJOCO_GL" not in os.environ or "mujoco" in sys.modules or extra_of(settings.id) != "mujoco":
            raise
        drawn_by = f"MUJOCO_GL = {os.environ['MUJOCO_GL']!r}, which may be unset, egl, osmesa or glfw"
        raise BadInput(f"env.id = {settings.id!r} cannot be imported with {drawn_by}: {one_line(error)}") from None
    except (TypeError, gym.error.Error) as error:
        raise BadInput(f"env.id = {settings.id!r} with env.kwargs = {settings.kwargs}: {one_line(error)}") from None
    for name in settings.wrappers:
        env = named_object(name, "env.wrappers")(env)
    return env


def registered(settings: EnvSettings, **kwargs: Any) -> gym.Env:
    if is_atari(settings.id):
        import_module("ale_py")  # registers its games
    if settings.game is None:
        return gym.make(settings.id, disable_env_checker=True, **kwargs)
    from harness.envs.atari import make_game

    return make_game(settings.id, settings.game, **kwargs)


def check_environment(settings: EnvSettings) -> tuple[spaces.Box, spaces.Space]:
    """The observation and action space, from one environment that is made and closed; BadInput where they cannot be
    used."""
    with warnings.catch_warnings(record=True) as told:  # what is refused is told in one line
        env = make_environment(settings)
    for each in told:
        warnings.showwarning(each.message, each.category, each.filename, each.lineno)
    try:
        observation, action = env.observation_space, env.action_space
    finally:
        env.close()
    if not isinstance(observation, spaces.Box):
        raise BadInput(
            f"env.id = {settings.id!r} has {type(observation).__name__} observations; they must be a Box: "
            "env.wrappers = ['gymnasium.wrappers:FlattenObservation'] flattens them"
        )
    return observation, action


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


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
