"""Steps decided on the device, by two ranks: the same as those decided by the hosts, and the same on both ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.multirank.launch import run_ranks

CODE = """
import sys
from pathlib import Path
import numpy as np
from harness.algorithms import Context
from harness.algorithms.ppo import PPO
from harness.config import load_run_config
from harness.envs import make_environments
from harness.reporting import PhaseTimer
from tests.multirank.launch import give, join

world, communicator = join()
CONFIG = '''
run.steps = 40960
env = { id = "CartPole-v1", count = 3 }
algorithm = { name = "ppo", rollout_steps = 30, minibatch_size = 20 }
network.hidden = [16]
optimizer.lr = 0.003
compile.mode = "off"
'''

def run(on_device, *settings):
    path = Path(sys.argv[1]) / f"{communicator.rank}.toml"
    path.write_text(CONFIG)
    config = load_run_config(str(path), settings)
    envs = make_environments(config.env, communicator.rank, 2)
    ppo = PPO(Context(config, communicator, world.device, PhaseTimer(), envs, lambda *_: np.zeros(1)))
    ppo.loop = ppo.learner.make_loop(ppo.kl_stop, on_device)
    metrics = [ppo.iterate(iteration).metrics for iteration in range(4)]
    step = ppo.learner.step
    return step.arena.parameters.clone(), step.precision.state(), step.gradient_steps, metrics

give([(run(False, *settings), run(True, *settings)) for settings in (
    ("algorithm.target_kl=0.003",),
    ("precision.kind=fp16", "precision.initial_scale=1048576.0", "precision.growth_interval=5"),
)])
world.stop()
"""


def test_two_ranks_whose_device_decides_are_two_whose_hosts_do(tmp_path: Path) -> None:
    """With a stop on KL, and in fp16 with steps that overflow."""
    given = run_ranks(2, "mpirun", CODE, tmp_path, str(tmp_path), sync_path="mpi").given
    for ours, theirs in zip(*given):
        (by_host, scale, steps, metrics), (by_device, other_scale, other_steps, other_metrics) = ours
        torch.testing.assert_close(by_host, by_device, rtol=1e-3, atol=1e-5)
        assert scale == other_scale and steps == other_steps < 4 * 4 * 4
        for one, other in zip(metrics, other_metrics):
            assert one == pytest.approx(other, rel=1e-2, abs=1e-4, nan_ok=True)
        assert torch.equal(by_device, theirs[1][0]), "ranks differ"
