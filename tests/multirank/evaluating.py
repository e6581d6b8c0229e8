"""Runs whose evaluations and epochs are stopped, drawn, lent and told: in a rank each of RUNS in turn, in the folder
that is its argument; the same in one process, which two ranks are compared with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from harness.config import resolve
from harness.lifecycle.checkpoints import checkpoint
from harness.run.loop import Run
from harness.run.train import train
from harness.training import listening
from tests.harness.run import test_evaluation as one_rank
from tests.multirank.launch import give

PPO, DQN, HERE = one_rank.PPO, one_rank.DQN, "tests.harness.run.test_evaluation"
LINE = "tests.environments:Line-v0"
TOLD, FOREVER = "tests.evaluated:EvaluatedTold-v0", "tests.evaluated:EvaluatedForever-v0"


class Counting(nn.Module):
    """A buffer of it is the mean of all that it was ever shown."""

    def __init__(self, observation_space: gym.spaces.Box, outputs: int) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(2))
        self.policy, self.value = nn.Linear(2, outputs), nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls += 1
        self.mean += (x.detach().mean(0) - self.mean) / self.calls
        return self.policy(x), self.value(x - self.mean).squeeze(-1)


def table(env: dict[str, Any] | None, algorithm: dict[str, Any], **evaluation: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "run": {"name": "run"},
        "algorithm": algorithm,
        "compile": {"mode": "off"},
        "logging": {"tensorboard": False},
    }
    if env is not None:
        made["run"]["steps"] = 96
        made |= {"env": {"count": 2, "backend": "sync", **env}, "network": {"hidden": [8]}}
        made["evaluation"] = {"count": 3, "episodes": 3, "final_episodes": 5, **evaluation}
    return made


SUPERVISED = table(None, {"name": "supervised", "dataset": f"{HERE}:points", "epochs": 3, "batch_size": 8})
SUPERVISED["network"] = {"class": f"{HERE}:Classifier"}
COUNTING = table({"id": LINE}, PPO)
COUNTING["network"] = {"class": "tests.multirank.evaluating:Counting"}
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "drawn": (table({"id": LINE}, PPO, deterministic=False), {}),
    "lent": (table({"id": LINE}, DQN, environments="training"), {}),
    "told": (table({"id": TOLD, "info_metrics": ["is_success"]}, PPO), {}),
    "endless": (table({"id": FOREVER}, PPO, max_steps=100_000), {"evaluation": {"max_steps": 20}}),
    "counting": (COUNTING, {}),
    "epoch": (SUPERVISED, {"compile": {"mode": "off"}}),
}
"""Each with what is changed before it is started again; nothing where it is started once."""


def go(name: str, folder: Path) -> dict[str, Any]:
    """How the run ended, each time that it was started, and what it has learned."""
    settings, then = RUNS[name]
    listening.LISTEN_SECONDS = 0.0
    one_rank.Points.asked = 0
    runs: list[Run] = []
    opened = Run._open

    def keep(self: Run) -> None:
        runs.append(self)
        opened(self)

    Run._open = keep  # type: ignore[method-assign]
    try:
        results = [train(resolve(settings), folder / name)]
        if then:
            changed = {**settings, **{key: {**settings[key], **value} for key, value in then.items()}}
            results.append(train(resolve(changed), folder / name))
    finally:
        Run._open = opened  # type: ignore[method-assign]
    module, evaluation = runs[-1].algorithm.module, runs[-1].evaluations.latest
    found = checkpoint.load(folder / name / "checkpoints" / "latest")
    assert found is not None
    return {
        "ends": [(result.status, result.reason, result.env_steps) for result in results],
        "value": results[-1].value,
        "metrics": results[-1].eval_metrics,
        "evaluation": np.zeros(0) if evaluation is None else evaluation.returns,
        "parameters": torch.nn.utils.parameters_to_vector(module.parameters()).detach().clone(),
        "buffers": {name: buffer.clone() for name, buffer in module.named_buffers()},
    }


if __name__ == "__main__":
    give({name: go(name, Path(sys.argv[1])) for name in RUNS})
