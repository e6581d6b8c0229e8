"""An environment that the user's script has registered, for ranks, which do not run that script.

A rank is a process of its own: what a module registers it registers again, where `env.id` names the module, but of a
script it knows nothing. So the parent writes the registration down, classes of the script by value, and its ranks read
it.
"""

from __future__ import annotations

import copy
import sys
from importlib import import_module
from pathlib import Path

import cloudpickle
import gymnasium as gym

from harness.envs.settings import EnvSettings, is_atari
from harness.errors import BadInput


def registration(settings: EnvSettings) -> bytes | None:
    """What another process needs to know the environment as this one does; None where it knows it by itself. BadInput
    where it cannot be written down."""
    spec = gym.registry.get(settings.id)
    if spec is None or ":" in settings.id or is_atari(settings.id):
        return None
    points = spec.entry_point, spec.vector_entry_point
    if all(point is None or isinstance(point, str) and point.startswith("gymnasium.") for point in points):
        return None
    spec = copy.copy(spec)
    try:
        spec.entry_point, spec.vector_entry_point = (of_this_script(point) for point in points)  # type: ignore
        return cloudpickle.dumps((sys.path, spec))
    except Exception as error:
        raise BadInput(f"{describe(settings.id)}, but cannot be: {type(error).__name__}: {error}") from None


def of_this_script(point: object) -> object:
    """The object itself where a string names one of the script that runs, which is another in each process."""
    if not (isinstance(point, str) and point.startswith("__main__:")):
        return point
    return getattr(import_module("__main__"), point.removeprefix("__main__:"))


def refuse_names_of_the_script(setting: str, *names: str | None) -> None:
    """BadInput where one of a setting's names is of an object of the script that runs, which ranks do not."""
    for name in names:
        if name is not None and name.startswith("__main__:"):
            raise BadInput(
                f"{setting} = {name!r} names something of the script that starts this run, which its ranks, processes "
                f"of their own, do not run: put it into a module, and write 'module:{name.removeprefix('__main__:')}'"
            )


def register_from_parent(env_id: str, written: Path) -> None:
    """In a rank: registers what its parent has written down, where this process does not know `env_id` itself."""
    if env_id in gym.registry:
        return
    try:
        search_path, spec = cloudpickle.loads(written.read_bytes())
        sys.path += [each for each in search_path if each not in sys.path]
        gym.registry[spec.id] = spec
    except Exception as error:
        raise BadInput(f"{describe(env_id)}, but cannot be read: {type(error).__name__}: {error}") from None


def describe(env_id: str) -> str:
    return (
        f"env.id = {env_id!r} is registered by the script that starts this run, which its ranks, processes of their "
        f"own, do not run: put it into a module, and write env.id = 'module:{env_id}'; it was to be handed to them"
    )
