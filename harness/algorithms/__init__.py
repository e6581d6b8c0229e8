"""What is learned: one file each; a new one is its file and a line in `ALGORITHMS`, or a user's `module:Class`."""

from __future__ import annotations

from typing import Any

from harness.algorithms.base import Algorithm, Context, Evaluation
from harness.registry import named_class
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
    """One of ALGORITHMS, or a user's own, `module:Class`; BadInput for other names."""
    return named_class(name, ALGORITHMS, "algorithm.name", Algorithm)
