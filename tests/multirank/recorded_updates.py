"""In a rank: `harness.run.train.train` of algorithms that learn from replay, one config after the other, each with its
parameters after each iteration and what its replay holds handed to the test.

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
from harness.algorithms.base import Iteration
from harness.algorithms.common.off_policy import OffPolicy
from harness.config import load_run_config
from harness.run.train import train
from tests.multirank.launch import SYNC_PATH, give


def record(run_dir: str, preset: str, *overrides: str) -> dict[str, Any]:
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

    with patch.object(kind, "iterate", recorded):
        result = train(config, Path(run_dir))
    replay = trained[0].replay
    held = {
        name: torch.from_numpy(getattr(replay, name).reshape(replay.envs, -1).copy())
        for name in ("actions", "rewards", "frames")
    }
    summary = {"status": result.status, "reason": result.reason, "gradient_steps": result.gradient_steps}
    return {
        "parameters": parameters,
        "targets": targets,
        "replay": held,
        "compiled": trained[0].compiled is not None,
        **summary,
    }


if __name__ == "__main__":
    give({name: record(*arguments) for name, arguments in json.loads(sys.argv[1]).items()})
