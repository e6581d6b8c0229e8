"""Atari end to end: PPO with the Nature CNN on Pong, two ranks."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.files import read_json, read_json_lines
from tests.command import harness
from tests.conftest import need

SHORT = ["run.steps=2048", "evaluation.count=1", "evaluation.episodes=2", "evaluation.final_episodes=2"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["envpool"])
def test_pong_is_trained_on_two_ranks(backend: str, tmp_path: Path) -> None:
    need(find_spec("ale_py") and find_spec("envpool"), "the extras 'atari' and 'envpool'")
    arguments = [*SHORT, f"env.backend={backend}", "env.count=4", "algorithm.epochs=1", "--ranks", "2"]

    ran = harness("train", "ppo-pong", *arguments, "--output", "run", cwd=tmp_path, seconds=500)

    assert ran.code == 0, ran.err
    result = read_json(tmp_path / "run" / "result.json")
    assert (result["status"], result["ranks"], result["env_steps"]) == ("done", 2, 2048)
    assert result["gradient_steps"] == 2048 // 256
    assert -21 <= result["eval_return_mean"] <= -15  # hardly trained; whole games of 21 points
    metrics, _ = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert len(metrics) == 4 and all(line["loss"] is not None for line in metrics)
