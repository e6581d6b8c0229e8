"""`ppo-cartpole` learns: the final policy is good on 100 episodes, for most seeds, on one rank and on two."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.files import read_json
from tests.command import harness

SEEDS = range(5)


@pytest.mark.learning
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_four_of_five_seeds_reach_475_within_100_000_steps(ranks: int, tmp_path: Path) -> None:
    values = []
    for seed in SEEDS:
        arguments = [f"seed={seed}", "--output", f"seed-{seed}", *(["--ranks", str(ranks)] if ranks > 1 else [])]
        ran = harness("train", "ppo-cartpole", *arguments, cwd=tmp_path, seconds=600)
        assert ran.code == 0, ran.err
        result = read_json(tmp_path / f"seed-{seed}" / "result.json")
        assert result["ranks"] == ranks and result["env_steps"] <= 100_000 and result["eval_episodes"] == 100
        values.append(result["eval_return_mean"])
    assert sum(value >= 475 for value in values) >= 4, values
    print(values)
