"""An algorithm of one's own: REINFORCE, on one rank and on two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import harness
from harness.algorithms.base import Context
from harness.algorithms.common.on_policy import OnPolicy, OnPolicySettings
from harness.training.updates import Minibatch
from tests.checkpoints import load_newest


class Reinforce(OnPolicy):
    """REINFORCE with a learned baseline (Williams 1992): one step on each rollout, along ∇ log π(a|s) (R - V(s))."""

    Settings = OnPolicySettings
    STATISTICS = ("loss", "value_loss")
    NUMBERS = ()

    def __init__(self, context: Context) -> None:
        self.settings = context.config.algorithm  # type: ignore[assignment]
        super().__init__(context, epochs=1, minibatches=1)

    def update(self, rollout: int) -> dict[str, float]:
        (rows,), counts = self.minibatch_plan(rollout, 0)
        done = self.update_on(rollout, [Minibatch(rows, (), weight=len(rows) / counts[0])])
        return {**dict(zip(self.STATISTICS, done.means)), "gradient_steps": done.taken}

    def loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        parameters, values = self.module(batch["observations"])
        value_loss = (values - batch["returns"]).square().mean()
        loss = value_loss - (self.head.log_prob(parameters, batch["actions"]) * batch["advantages"]).mean()
        return loss, torch.stack([loss, value_loss]).detach()


def test_reinforce_learns_the_same_on_two_ranks_as_on_one(tmp_path: Path) -> None:
    config = tmp_path / "reinforce.toml"
    name = f"{__name__}:Reinforce"
    config.write_text(f'env.id = "CartPole-v1"\nalgorithm = {{name = "{name}", rollout_steps = 64, gae_lambda = 1.0}}')
    made: list[tuple[list[dict[str, float]], dict[str, Any]]] = []
    for ranks in (1, 2):
        settings = ["run.steps=4096", "optimizer.lr=0.01", "evaluation.count=1", "evaluation.final_episodes=4"]
        result = harness.train(config, settings, output=tmp_path / str(ranks), ranks=ranks, launcher="mpirun")
        assert result.status == "done" and result.ranks == ranks and result.gradient_steps == 8
        metrics = [json.loads(line) for line in (tmp_path / str(ranks) / "metrics.jsonl").read_text().splitlines()]
        checkpoint, _ = load_newest(tmp_path / str(ranks) / "checkpoints")
        assert checkpoint is not None
        made.append((metrics, checkpoint.state["module"]))
    (one, module), (two, other) = made
    assert [line["return_mean"] for line in one] == pytest.approx([line["return_mean"] for line in two])
    assert one[-1]["return_mean"] > one[0]["return_mean"], "it learns"
    torch.testing.assert_close(module, other, rtol=1e-3, atol=1e-5)
