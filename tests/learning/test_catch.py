"""`ppo-catch` learns from pixels on two ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.files import read_json
from tests.command import harness


@pytest.mark.learning
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_balls_are_caught_within_50_000_steps_on_two_ranks(tmp_path: Path) -> None:
    ran = harness("train", "ppo-catch", "--ranks", "2", "--output", "run", cwd=tmp_path, seconds=840)
    assert ran.code == 0, ran.err
    result = read_json(tmp_path / "run" / "result.json")
    assert result["ranks"] == 2 and result["env_steps"] <= 50_000 and result["eval_episodes"] == 100
    assert result["eval_return_mean"] >= 0.9
