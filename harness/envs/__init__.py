"""Where it acts: vectors of environments that are the same experiment on any number of ranks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.envs.backends.base import StepResult
    from harness.envs.backends.selection import choose_backend
    from harness.envs.factory import make_environment
    from harness.envs.inspection import check_environment
    from harness.envs.normalization import RunningMoments
    from harness.envs.players import play_episodes
    from harness.envs.settings import EnvSettings
    from harness.envs.share import Share, share_of
    from harness.envs.vectors import Environments, make_environments

__all__ = [
    "EnvSettings",
    "Environments",
    "RunningMoments",
    "Share",
    "StepResult",
    "check_environment",
    "choose_backend",
    "make_environment",
    "make_environments",
    "play_episodes",
    "share_of",
]

HOMES = {
    "EnvSettings": "settings",
    "RunningMoments": "normalization",
    "Share": "share",
    "StepResult": "backends.base",
    "check_environment": "inspection",
    "choose_backend": "backends.selection",
    "make_environment": "factory",
    "play_episodes": "players",
    "share_of": "share",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: a worker process that steps environments needs no torch."""
    if name not in __all__:
        raise AttributeError(f"module 'harness.envs' has no attribute {name!r}")
    return getattr(import_module(f"harness.envs.{HOMES.get(name, 'vectors')}"), name)
