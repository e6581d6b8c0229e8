"""A2C's gradient against the policy gradient written out, and its short rollouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.algorithms import Context
from harness.algorithms.a2c import A2C, STATISTICS
from harness.config import load_run_config
from harness.distributed.transports.base import Alone
from harness.envs import make_environments
from harness.errors import BadInput, EnvironmentFault
from harness.reporting import PhaseTimer
from tests.harness.algorithms.formulas import gaussian_policy_gradient

CONFIG = """
[run]
steps = 2048
[env]
id = "CartPole-v1"
count = 4
[algorithm]
name = "a2c"
rollout_steps = 4
[network]
hidden = []
"""


def make(folder: Path, *overrides: str) -> A2C:
    (folder / "run.toml").write_text(CONFIG)
    config = load_run_config(str(folder / "run.toml"), overrides)
    assert config.env is not None
    play = lambda act, episodes, final: np.zeros(episodes)  # noqa: E731
    envs = make_environments(config.env, 0, 1)
    return A2C(Context(config, Alone(), torch.device("cpu"), PhaseTimer(), envs, play))


@pytest.mark.parametrize("normalize", [False, True])
def test_the_gradient_is_the_policy_gradient(normalize: bool, tmp_path: Path) -> None:
    """Of linear networks: for logits W s + b it is (π - 1[a]) A sᵀ, and (π H-terms) of the entropy; for values v s + c
    it is 2 c1 (V - R) s."""
    a2c = make(
        tmp_path, f"algorithm.normalize_advantages={str(normalize).lower()}", "algorithm.entropy_coefficient=0.1"
    )
    a2c.collector.collect(0)
    rollout, network = a2c.rollout, a2c.module.network
    rows, counts = a2c.minibatch_plan(0, 0)
    centres, scales = a2c.advantage_moments([rows])
    a2c.learner.gradient(torch.from_numpy(rows[0]), 1.0, (centres[0, 0], scales[0, 0], *a2c.coefficients))
    assert len(rows[0]) == counts[0] == 16

    states, advantages = rollout.observations.reshape(-1, 4), rollout.advantages.reshape(-1)
    if normalize:
        advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)
    with torch.no_grad():
        logits, values = (out.double().numpy() for out in network(torch.from_numpy(states)))
    of_policy, of_value = np.zeros((2, 4)), np.zeros(4)
    for state, action, advantage, logit, value, target in zip(
        states, rollout.actions.reshape(-1), advantages, logits, values, rollout.returns.reshape(-1)
    ):
        p = np.exp(logit) / np.exp(logit).sum()
        of_policy += np.outer((p - np.eye(2)[action]) * advantage, state) / 16
        of_policy -= 0.1 * np.outer(-p * (np.log(p) - (p * np.log(p)).sum()), state) / 16
        of_value += 2 * 0.5 * (value - target) * state / 16
    np.testing.assert_allclose(network.policy[0].weight.grad.numpy(), of_policy, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(network.value[0].weight.grad.numpy()[0], of_value, rtol=1e-4, atol=1e-6)


def test_the_gradient_of_numbers_is_that_of_a_normal(tmp_path: Path) -> None:
    """As above for actions that are numbers; the entropy of a normal grows with log σ alone, by 1."""
    a2c = make(tmp_path, "env.id=Pendulum-v1", "algorithm.entropy_coefficient=0.1", "algorithm.log_std_init=-0.7")
    a2c.collector.collect(0)
    rollout, network, head = a2c.rollout, a2c.module.network, a2c.head
    (rows,), _ = a2c.minibatch_plan(0, 0)
    a2c.learner.gradient(torch.from_numpy(rows), 1.0, (0.0, 1.0, *a2c.coefficients))
    states, advantages = rollout.observations.reshape(-1, 3), rollout.advantages.reshape(-1)
    with torch.no_grad():
        means = network(torch.from_numpy(states))[0].numpy()
    samples = states, rollout.actions.reshape(-1, 1), means, head.log_std.detach().numpy()
    weights, biases, log_std = gaussian_policy_gradient(*samples, advantages)
    np.testing.assert_allclose(network.policy[0].weight.grad.numpy(), weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(network.policy[0].bias.grad.numpy(), biases, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(head.log_std.grad.numpy(), log_std - 0.1, rtol=1e-4, atol=1e-5)


def test_an_iteration_takes_several_short_rollouts(tmp_path: Path) -> None:
    a2c = make(tmp_path)
    assert (a2c.env_steps_per_iteration, a2c.iterations) == (256, 8)
    done = a2c.iterate(0)
    assert (done.env_steps, done.gradient_steps) == (256, 16)
    assert {*STATISTICS, "return_mean", "lr"} <= set(done.metrics)


def test_a_rate_steered_by_kl_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="kl_adaptive"):
        make(tmp_path, "optimizer.schedule=kl_adaptive")


def test_a_reward_that_is_no_number_is_told_as_such_whatever_rollout_it_is_in(tmp_path: Path) -> None:
    broken = "env.id=tests.environments:Broken-v0", "env.kwargs.how=nan-reward", "env.kwargs.rank=0", "env.kwargs.at=6"
    a2c = make(tmp_path, *broken)
    assert a2c.rollouts > 2  # step 6 is in the second of them
    with pytest.raises(EnvironmentFault, match="^environment 0 gave nan as its reward in its step 6 of this run$"):
        a2c.iterate(0)
