"""Every learner by its trace, with each switch: the same run as by its eager gradient, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.lifecycle.checkpoints.serialization import read_tensors
from harness.run.train import train
from harness.schema import RunConfig
from tests.conftest import slow
from tests.learning.learners import CONTINUOUS, SWITCHES, config

AT_ONCE = ("ppo-target-kl", "a2c-gsde", "dqn-quantiles", "sac-learned-temperature", "sac-gsde", "td3")


def short(learner: str, mode: str) -> RunConfig:
    """Some dozens of updates."""
    made = config(learner, {"id": "CartPole-v1" if learner not in CONTINUOUS else "Pendulum-v1"}, run={"steps": 1024})
    return made.model_copy(update={"compile": made.compile.model_copy(update={"mode": mode})})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "checkpoints" / "latest" / "state.pt")["module"]


@pytest.mark.parametrize("learner", [name if name in AT_ONCE else slow(name) for name in SWITCHES])
def test_a_traced_run_is_the_eager_one(learner: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for mode in ("traced", "off"):
        assert train(short(learner, mode), tmp_path / mode).status == "done"
    assert "gradient traced (equal to eager to the bit)" in capsys.readouterr().out
    traced, eager = weights(tmp_path / "traced"), weights(tmp_path / "off")
    assert traced.keys() == eager.keys() and all(torch.equal(traced[name], eager[name]) for name in traced)
