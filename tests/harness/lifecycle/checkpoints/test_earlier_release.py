"""Checkpoints that an earlier release wrote go on in this one.

`fixtures/` holds the runs of commit 1ed59b4: in Python, `harness.train(NAME, SETTINGS, output=…)` for each of RUNS.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import harness

FIXTURES = Path(__file__).parent / "fixtures"
COMMON = [
    *("env.count=2", "network.hidden=[8]", "compile.mode=off", "evaluation.count=1", "evaluation.episodes=1"),
    *("evaluation.final_episodes=1", "checkpoint.keep=1", "logging.tensorboard=false"),
]
ROLLOUTS = ["algorithm.rollout_steps=32", "algorithm.minibatch_size=32", "algorithm.epochs=2"]
REPLAY = ["algorithm.buffer_size=200", "algorithm.learning_starts=64", "algorithm.batch_size=32"]
RUNS = {
    "ppo": ("ppo-cartpole", [*COMMON, *ROLLOUTS, "run.steps=128"]),
    "dqn": ("dqn-cartpole", [*COMMON, *REPLAY, "run.steps=500"]),
}


@pytest.mark.parametrize(("name", "steps"), [("ppo", 256), ("dqn", 1000)])
def test_a_run_of_an_earlier_release_is_resumed_and_finished(name: str, steps: int, tmp_path: Path) -> None:
    run_dir = tmp_path / name
    shutil.copytree(FIXTURES / name, run_dir, symlinks=True)
    before = json.loads((run_dir / "result.json").read_text())
    preset, settings = RUNS[name]
    result = harness.train(preset, [*settings, f"run.steps={steps}"], output=run_dir, resume="auto")
    assert result.status == "done" and result.env_steps > before["env_steps"]
    assert result.gradient_steps > before["gradient_steps"] > 0
    updates = [json.loads(line)["update"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert updates == list(range(1, len(updates) + 1)), "none was made again"
