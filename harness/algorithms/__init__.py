"""What is learned: one file each; a new one is its file, its settings, and a line in each of the two tables."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from harness.registry import named_class, shipped
from harness.schema import AlgorithmSettings
from harness.settings import named_object

if TYPE_CHECKING:
    from harness.algorithms.base import Algorithm, Context, Evaluation

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "AlgorithmSettings",
    "Context",
    "Evaluation",
    "algorithm_class",
    "settings_class",
]

ALGORITHMS = {
    "a2c": "harness.algorithms.a2c:A2C",
    "dqn": "harness.algorithms.dqn:DQN",
    "ppo": "harness.algorithms.ppo:PPO",
    "sac": "harness.algorithms.sac:SAC",
    "supervised": "harness.algorithms.supervised:Supervised",
    "td3": "harness.algorithms.td3:TD3",
}
SETTINGS = {
    "a2c": "harness.algorithms.settings.on_policy:A2CSettings",
    "dqn": "harness.algorithms.settings.off_policy:DQNSettings",
    "ppo": "harness.algorithms.settings.on_policy:PPOSettings",
    "sac": "harness.algorithms.settings.off_policy:SACSettings",
    "supervised": "harness.algorithms.settings.supervised:SupervisedSettings",
    "td3": "harness.algorithms.settings.off_policy:TD3Settings",
}
"""Their `Settings`, which can be had without torch."""


def algorithm_class(name: Any) -> type[Algorithm]:
    """Of one that is shipped, or of a user's `module:Class`; BadInput for other names."""
    return named_class(name, ALGORITHMS, "algorithm.name", import_module("harness.algorithms.base").Algorithm)


def settings_class(name: Any) -> type[AlgorithmSettings]:
    """`algorithm_class(name).Settings`; the algorithm itself, and torch with it, is imported for a user's own alone."""
    if is_users(name):
        return algorithm_class(name).Settings
    return named_object(shipped(name, SETTINGS, "algorithm.name"), "algorithm.name")


def is_users(name: Any) -> bool:
    """Whether it names a class of the user's own."""
    return isinstance(name, str) and ":" in name


def __getattr__(name: str) -> Any:
    """What an algorithm is made of, imported when it is asked for: it needs torch."""
    if name not in ("Algorithm", "Context", "Evaluation"):
        raise AttributeError(f"module 'harness.algorithms' has no attribute {name!r}")
    return getattr(import_module("harness.algorithms.base"), name)
