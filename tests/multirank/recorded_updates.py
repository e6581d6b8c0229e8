"""In a rank: `harness.run.train` of an algorithm that learns from replay, with its parameters after each iteration and
what its replay holds handed to the test.

Arguments: run directory, preset or file, overrides.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from harness.algorithms import algorithm_class
from harness.algorithms.base import Iteration
from harness.algorithms.off_policy import OffPolicy
from harness.config import load_run_config
from harness.run import train
from tests.multirank.launch import SYNC_PATH, give

run_dir, preset, *overrides = sys.argv[1:]
config = load_run_config(preset, [f"sync.path={os.environ[SYNC_PATH]}", *overrides])
kind = algorithm_class(config.algorithm.name)
iterate = kind.iterate
parameters: list[torch.Tensor] = []
targets: list[torch.Tensor] = []
trained: list[OffPolicy] = []


def recorded(self: OffPolicy, iteration: int) -> Iteration:
    trained[:] = [self]
    done = iterate(self, iteration)
    parameters.append(torch.nn.utils.parameters_to_vector(self.module.parameters()).detach().clone())
    targets.append(self.target_parameters.clone())  # type: ignore[attr-defined]
    return done


kind.iterate = recorded  # type: ignore[method-assign, assignment]
result = train(config, Path(run_dir))
replay = trained[0].replay
held = {
    name: torch.from_numpy(getattr(replay, name).reshape(replay.envs, -1).copy()) for name in ("actions", "rewards")
}
held["frames"] = torch.from_numpy(replay.frames.reshape(replay.envs, -1).copy())
summary: dict[str, object] = {"status": result.status, "reason": result.reason, "gradient_steps": result.gradient_steps}
summary["compiled"] = trained[0].compiled is not None
give({"parameters": parameters, "targets": targets, "replay": held, **summary})
