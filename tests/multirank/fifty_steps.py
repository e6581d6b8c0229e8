"""In a rank: 50 minibatches of one stored rollout, by a path and with a gradient that are given.

Arguments: a config file, overrides.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from harness.algorithms.base import Context
from harness.algorithms.ppo import PPO
from harness.config import load_run_config
from harness.envs import make_environments
from harness.reporting import PhaseTimer
from tests.multirank.launch import give, join

world, communicator = join()
config = load_run_config(sys.argv[1], sys.argv[2:])
assert config.env is not None
envs = make_environments(config.env, communicator.rank, communicator.size)
ppo = PPO(Context(config, communicator, world.device, PhaseTimer(), envs, lambda act, episodes, final: np.zeros(0)))
ppo.collector.collect(0)
start = ppo.learner.step.arena.parameters.clone()
plans = [ppo.minibatch_plan(0, epoch) for epoch in range(13)]
for part, count in [each for parts, counts in plans for each in zip(parts, counts)][:50]:
    ppo.learner.gradient(torch.from_numpy(part), len(part) / count, (0.2, 0.0, 1.0, *ppo.coefficients))
    ppo.learner.step.reduce()
    ppo.learner.step.apply()
given = {
    "start": start,
    "end": ppo.learner.step.arena.parameters,
    "path": communicator.transport,
    "compiled": bool(ppo.compiled),
}
give({**given, "steps": ppo.learner.step.gradient_steps})
world.stop()
