"""Two ranks whose episodes are of very different length learn the same policy, from all that both see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.files import read_json, read_json_lines
from harness.policy.policy import load_run
from tests.conftest import slow
from tests.learning.learners import DISCRETE, KINDS, ON_POLICY, config
from tests.learning.probes import Uneven
from tests.multirank.launch import run_ranks

pytestmark = pytest.mark.learning
CODE = """
import sys
from pathlib import Path
from harness.config import load_run_config
from harness.run.train import train
train(load_run_config(sys.argv[1]), Path(sys.argv[2]))
"""
ENVS = 3
"""Two on the rank of the short episodes, one on that of the long ones."""


@pytest.mark.parametrize("learner", [each if each in ("ppo", "dqn") else slow(each) for each in KINDS])
def test_unequal_episodes_over_two_ranks(learner: str, tmp_path: Path) -> None:
    normalized = learner in ON_POLICY
    kind = "discrete" if learner in DISCRETE else "continuous"
    env = {"id": "tests.learning.probes:Uneven-v0", "kwargs": {"kind": kind}, "count": ENVS}
    env["normalize_observations"] = normalized
    settings: dict[str, Any] = {"minibatch_size": 24} if learner == "ppo" else {} if normalized else {"train_freq": 6}
    settings["run"] = {"steps": 1536} if kind == "continuous" else {}
    (tmp_path / "uneven.toml").write_text(config(learner, env, **settings).to_toml())
    run = tmp_path / "run"
    run_ranks(2, "mpirun", CODE, tmp_path, str(tmp_path / "uneven.toml"), str(run), sync_path="mpi")

    short, long = Uneven.LENGTHS
    result = read_json(run / "result.json")
    assert result is not None and result["ranks"] == 2
    assert result["eval_return_mean"] >= 0.9 * (short + long) / 2, "each rank plays half of the episodes"
    lines = read_json_lines(run / "metrics.jsonl")[0]
    steps, episodes = lines[-1]["env_steps"], sum(line.get("episodes", 0) for line in lines)
    expected = 2 * (steps / ENVS // short) + steps / ENVS // long
    assert episodes == expected, "those of both ranks"
    total = sum(line["episodes"] * line["length_mean"] for line in lines)
    assert total == pytest.approx(steps, abs=2 * long), "and each of them whole"
    if normalized:
        moments = load_run(run).environments.moments
        assert moments is not None and moments.count == steps + ENVS
        assert moments.mean[1] == pytest.approx(1 / 3, abs=1e-6), "the rank, over all environments"
