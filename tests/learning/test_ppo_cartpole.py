"""`ppo-cartpole` learns on two ranks; `make learn` trains it and every other preset over seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.files import read_json
from tests.command import harness


@pytest.mark.learning
def test_the_preset_reaches_its_threshold_on_two_ranks(tmp_path: Path) -> None:
    ran = harness("train", "ppo-cartpole", "--ranks", "2", "--output", "run", cwd=tmp_path, seconds=900)
    assert ran.code == 0, ran.err
    result = read_json(tmp_path / "run" / "result.json")
    assert result["ranks"] == 2 and result["env_steps"] <= 100_000 and result["eval_episodes"] == 100
    assert result["eval_return_mean"] >= 475
