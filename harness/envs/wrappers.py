"""Wrappers that learn what all environments, ranks and evaluations of a run should share."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import NormalizeObservation, NormalizeReward

from harness.envs.settings import EnvSettings
from harness.envs.snapshots.snapshot import layers
from harness.errors import BadInput

LEARNS: dict[type, str] = {
    NormalizeObservation: "env.normalize_observations",
    NormalizeReward: "env.normalize_rewards",
}
"""Wrappers that learn from what passes through them, and the settings that do it for all environments."""


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
