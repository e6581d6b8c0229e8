"""Every algorithm with small settings that solve the probes within seconds, and its switches."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from harness.algorithms.common.off_policy import OffPolicy
from harness.algorithms.common.off_policy_actor_critic import Continuous
from harness.algorithms.common.on_policy import OnPolicy
from harness.config import resolve
from harness.policy.policy import Policy, load_run
from harness.run.train import train
from harness.schema import RunConfig

GAMMA = 0.6

COMMON: dict[str, Any] = {
    "env": {"count": 8},
    "network": {"hidden": [32, 32], "activation": "tanh"},
    "compile": {"mode": "off"},
    "evaluation": {"count": 1, "episodes": 1, "final_episodes": 16},
    "logging": {"tensorboard": False},
}
OFF_POLICY = {"buffer_size": 4000, "learning_starts": 256, "batch_size": 64, "train_freq": 8, "gradient_steps": 4}
TWINS = {
    "run": {"steps": 4096},
    "algorithm": {**OFF_POLICY, "tau": 0.05},
    "optimizer": {"lr": 3e-3},
    "network": {"hidden": [32, 32], "activation": "relu"},
}
KINDS: dict[str, dict[str, Any]] = {
    "ppo": {
        "run": {"steps": 8192},
        "algorithm": {"rollout_steps": 32, "minibatch_size": 64, "epochs": 8},
        "optimizer": {"lr": 3e-3},
    },
    "a2c": {
        "run": {"steps": 25_600},
        "algorithm": {"rollout_steps": 8},
        "optimizer": {"lr": 5e-3},
    },
    "dqn": {
        "run": {"steps": 4096},
        "algorithm": {**OFF_POLICY, "target_update_interval": 64, "exploration_fraction": 0.5},
        "optimizer": {"lr": 3e-3},
    },
    "sac": TWINS,
    "td3": TWINS,
}
SWITCHES: dict[str, dict[str, Any]] = {
    "ppo": {},
    "ppo-squash": {"squash": True},
    "ppo-gsde": {"gsde": True, "sde_sample_freq": 4, "log_std_init": -1.0},
    "ppo-gsde-once-a-rollout": {"gsde": True},
    "ppo-squash-gsde": {"squash": True, "gsde": True, "sde_sample_freq": 4, "log_std_init": -1.0},
    "ppo-clipped-value": {"clip_range_value": 0.5},
    "ppo-target-kl": {"target_kl": 0.03},
    "a2c": {},
    "a2c-squash": {"squash": True},
    "a2c-gsde": {"gsde": True, "sde_sample_freq": 4, "log_std_init": -1.0},
    "dqn": {},
    "dqn-double": {"double": True},
    "dqn-dueling": {"dueling": True},
    "dqn-n-step": {"n_steps": 3},
    "dqn-prioritized": {"prioritized": True},
    "dqn-priority-exponent": {"prioritized": True, "priority_exponent": 1.0},
    "dqn-quantiles": {"quantiles": 8},
    "sac": {"temperature": 1e-3},
    "sac-learned-temperature": {"target_entropy": -4.0},
    "sac-default-entropy": {},
    "sac-gsde": {"temperature": 1e-3, "gsde": True, "log_std_init": -1.0},
    "sac-gsde-learned-temperature": {"target_entropy": -4.0, "gsde": True, "log_std_init": -1.0},
    "sac-target-interval": {"temperature": 1e-3, "target_update_interval": 4},
    "td3": {},
    "td3-delay": {"policy_delay": 4},
}
"""What each learner has switched on, by a name that begins with its algorithm."""
ONLY_CONTINUOUS = [name for name in SWITCHES if name.startswith(("sac", "td3", "ppo-", "a2c-"))]
CONTINUOUS = ["ppo", "a2c", *ONLY_CONTINUOUS]
DISCRETE = [name for name in SWITCHES if name not in ONLY_CONTINUOUS]
ON_POLICY = ["ppo", "a2c"]


def kind_of(learner: str) -> str:
    return learner.partition("-")[0]


def config(learner: str, env: Mapping[str, Any], **more: Any) -> RunConfig:
    """The learner on an environment. `env`, and `run`, `optimizer` and `network` where they are given, join these
    sections, and what else is given joins `algorithm`."""
    own = KINDS[kind_of(learner)]
    table = {**COMMON, **own, "env": {**COMMON["env"], **env}}
    for section in ("run", "optimizer", "network"):
        table[section] = {**table[section], **more.pop(section, {})}
    named = {"name": kind_of(learner), "gamma": GAMMA}
    return resolve({**table, "algorithm": {**named, **own["algorithm"], **SWITCHES[learner], **more}})


class PolicyAlone(nn.Module):
    """A network whose value is 0 everywhere."""

    def __init__(self, observation_space: spaces.Box, action_parameters: int) -> None:
        super().__init__()
        self.policy = nn.Linear(int(np.prod(observation_space.shape)), action_parameters)
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.policy(observations.flatten(1)), self.nothing.expand(len(observations))


def learn(config: RunConfig, folder: Path) -> tuple[float, Policy]:
    """The mean return of the final policy, and the policy."""
    result = train(config, folder)
    assert result.status == "done", result.reason
    assert result.eval_return_mean is not None
    return result.eval_return_mean, load_run(folder)


@torch.no_grad()
def values(policy: Policy, observations: np.ndarray) -> np.ndarray:
    """What the policy's algorithm holds these states (n, …) to be worth, for its own policy."""
    algorithm = policy.algorithm
    seen = policy.environments.normalize(observations)
    if isinstance(algorithm, OnPolicy):
        return algorithm.collector.values(seen)
    if isinstance(algorithm, Continuous):
        return algorithm.values(seen)
    assert isinstance(algorithm, OffPolicy)
    return algorithm.module(torch.from_numpy(seen)).mean(-1).amax(-1).numpy()
