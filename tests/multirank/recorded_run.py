"""In a rank: `harness.run.train` of a config, with each rollout and the final parameters handed to the test.

Arguments: run directory, preset or file, overrides.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from harness.algorithms.ppo import PPO
from harness.config import load_run_config
from harness.run import train
from tests.multirank.launch import SYNC_PATH, give

rollouts: list[dict[str, Any]] = []
trained: list[PPO] = []
update = PPO.update


def recorded(self: PPO, iteration: int) -> dict[str, float]:
    if iteration < 3:
        names = ("observations", "actions", "rewards", "dones", "values", "log_probs", "advantages", "returns")
        rollouts.append({name: torch.from_numpy(getattr(self.rollout, name).copy()) for name in names})
    metrics = update(self, iteration)
    trained[:] = [self]
    return metrics


PPO.update = recorded  # type: ignore[method-assign]
run_dir, preset, *overrides = sys.argv[1:]
path = f"sync.path={os.environ[SYNC_PATH]}"
result = train(load_run_config(preset, [path, *overrides]), Path(run_dir))
state = trained[0].step.arena.parameters.detach().clone()
steps = result.gradient_steps
summary = {"status": result.status, "sync_path": result.sync_path, "gradient_steps": steps}
give({"rollouts": rollouts, "parameters": state, **summary})
