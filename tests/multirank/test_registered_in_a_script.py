"""An environment that is registered, and written, in the very script that trains: ranks are processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness.files import read_json
from tests.multirank.launch import ROOT

SCRIPT = """
import sys
import gymnasium as gym
import numpy as np
import harness

POINTS = 2.0

class Here(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), POINTS, self.t >= 10, False, {}

gym.register("Here-v0", Here if sys.argv[1] == "class" else "__main__:Here")

if __name__ == "__main__":
    short = ["run.steps=64", "env.count=2", "algorithm.rollout_steps=16", "algorithm.minibatch_size=16"]
    short += ["evaluation.count=1", "evaluation.episodes=2", "evaluation.final_episodes=2", "compile.mode=off"]
    result = harness.train(
        "ppo-cartpole", ["env.id=Here-v0", *short, *sys.argv[2:]], ranks=2, launcher="mpirun", output="run"
    )
    print(result.status, result.value, result.reason)
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    (folder / "own.py").write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "own.py", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_its_ranks_know_it_and_workers_of_theirs_too(tmp_path: Path) -> None:
    ran = run(tmp_path, "class", "env.backend=workers", "env.workers=1")
    assert "done 20.0 None" in ran.stdout, ran.stdout + ran.stderr
    assert read_json(tmp_path / "run" / "result.json")["ranks"] == 2
    assert not list((tmp_path / "run").glob("registration*")), "it is for its ranks alone"
