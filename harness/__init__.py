"""Data-parallel training of policies and other PyTorch modules over Horovod and MPI."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api import train
    from harness.policy.evaluate import evaluate
    from harness.policy.export import export
    from harness.policy.load import load_policy
    from harness.training.distributed_trainer import DistributedTrainer
    from harness.training.losses import LossSum

__all__ = ["DistributedTrainer", "LossSum", "evaluate", "export", "load_policy", "train"]

HOMES = {
    "DistributedTrainer": "harness.training.distributed_trainer",
    "LossSum": "harness.training.losses",
    "evaluate": "harness.policy.evaluate",
    "export": "harness.policy.export",
    "load_policy": "harness.policy.load",
    "train": "harness.api",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: a driver that only launches ranks need not load torch."""
    if name not in HOMES:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)
