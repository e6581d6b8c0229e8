"""In a rank: `harness.run.train.train` of several configs in turn, with each one's rollouts and final parameters
handed to the test.

Argument: as JSON, by name, run directory, preset or file, and overrides.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from harness.algorithms import algorithm_class
from harness.algorithms.common.on_policy import OnPolicy
from harness.config import load_run_config
from harness.run.train import train
from tests.multirank.launch import SYNC_PATH, give

ARRAYS = ("observations", "actions", "rewards", "dones", "values", "log_probs", "advantages", "returns")


def record(run_dir: str, preset: str, *overrides: str) -> dict[str, Any]:
    config = load_run_config(preset, [f"sync.path={os.environ[SYNC_PATH]}", *overrides])
    kind: Any = algorithm_class(config.algorithm.name)
    update = kind.update
    rollouts: list[dict[str, Any]] = []
    trained: list[OnPolicy] = []

    def recorded(self: OnPolicy, rollout: int) -> dict[str, float]:
        if rollout < 3:
            rollouts.append({name: torch.from_numpy(getattr(self.rollout, name).copy()) for name in ARRAYS})
        metrics = update(self, rollout)
        trained[:] = [self]
        return metrics

    with patch.object(kind, "update", recorded):
        result = train(config, Path(run_dir))
    state = trained[0].learner.step.arena.parameters.detach().clone()
    summary = {"status": result.status, "sync_path": result.sync_path, "gradient_steps": result.gradient_steps}
    return {"rollouts": rollouts, "parameters": state, **summary}


if __name__ == "__main__":
    give({name: record(*arguments) for name, arguments in json.loads(sys.argv[1]).items()})
