"""In a rank: `harness.run.train` of a config, with each rollout and the final parameters handed to the test.

Arguments: run directory, preset or file, overrides.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from harness.algorithms import algorithm_class
from harness.algorithms.on_policy import OnPolicy
from harness.config import load_run_config
from harness.run import train
from tests.multirank.launch import SYNC_PATH, give

run_dir, preset, *overrides = sys.argv[1:]
config = load_run_config(preset, [f"sync.path={os.environ[SYNC_PATH]}", *overrides])
kind: Any = algorithm_class(config.algorithm.name)
update = kind.update
rollouts: list[dict[str, Any]] = []
trained: list[OnPolicy] = []


def recorded(self: OnPolicy, rollout: int) -> dict[str, float]:
    if rollout < 3:
        names = ("observations", "actions", "rewards", "dones", "values", "log_probs", "advantages", "returns")
        rollouts.append({name: torch.from_numpy(getattr(self.rollout, name).copy()) for name in names})
    metrics = update(self, rollout)
    trained[:] = [self]
    return metrics


kind.update = recorded
result = train(config, Path(run_dir))
state = trained[0].step.arena.parameters.detach().clone()
steps = result.gradient_steps
summary = {"status": result.status, "sync_path": result.sync_path, "gradient_steps": steps}
give({"rollouts": rollouts, "parameters": state, **summary})
