"""What is learned: one file each; a new one is its file and a line in `ALGORITHMS`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from harness.algorithms.base import Algorithm, Context, Evaluation
from harness.errors import BadInput
from harness.schema import AlgorithmSettings

ALGORITHMS = {
    "a2c": "harness.algorithms.a2c:A2C",
    "dqn": "harness.algorithms.dqn:DQN",
    "ppo": "harness.algorithms.ppo:PPO",
    "sac": "harness.algorithms.sac:SAC",
    "supervised": "harness.algorithms.supervised:Supervised",
    "td3": "harness.algorithms.td3:TD3",
}

__all__ = ["ALGORITHMS", "Algorithm", "AlgorithmSettings", "Context", "Evaluation", "algorithm_class"]


def algorithm_class(name: Any) -> type[Algorithm]:
    if name not in ALGORITHMS:
        raise BadInput(f"algorithm.name must be one of {', '.join(ALGORITHMS)}, got {name!r}")
    module, _, attribute = ALGORITHMS[name].partition(":")
    return getattr(import_module(module), attribute)
