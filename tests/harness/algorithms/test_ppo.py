"""PPO's loss against equation 9 written out, the value of what a time limit cut off, and the stop on KL."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.algorithms import Context
from harness.algorithms.ppo import NUMBERS, PPO, STATISTICS
from harness.config import load_run_config
from harness.distributed.transports.base import Alone
from harness.envs import make_environments
from harness.reporting import PhaseTimer
from tests.harness.algorithms.formulas import gaussian_policy_gradient

CONFIG = """
[run]
steps = 4096
[env]
id = "{env}"
count = 4
[algorithm]
name = "ppo"
rollout_steps = 16
minibatch_size = 16
"""


def make(folder: Path, *overrides: str, env: str = "CartPole-v1") -> PPO:
    (folder / "run.toml").write_text(CONFIG.format(env=env))
    config = load_run_config(str(folder / "run.toml"), overrides)
    assert config.env is not None
    envs = make_environments(config.env, 0, 1)
    play = lambda act, episodes, final: np.zeros(episodes)  # noqa: E731
    return PPO(Context(config, Alone(), torch.device("cpu"), PhaseTimer(), envs, play))


def test_the_loss_is_equation_9(tmp_path: Path) -> None:
    ppo = make(tmp_path, "algorithm.entropy_coefficient=0.03", "algorithm.clip_range_value=0.1")
    draw = np.random.default_rng(0)
    n, clip, centre, scale = 64, 0.2, 0.3, 1.7
    batch = {
        "observations": torch.from_numpy(draw.normal(size=(n, 4)).astype(np.float32)),
        "actions": torch.from_numpy(draw.integers(0, 2, (n, 1))),
        "log_probs": torch.from_numpy(np.log(draw.uniform(0.2, 0.8, n)).astype(np.float32)),
        "values": torch.from_numpy(draw.normal(size=n).astype(np.float32)),
        "advantages": torch.from_numpy(draw.normal(size=n).astype(np.float32)),
        "returns": torch.from_numpy(draw.normal(size=n).astype(np.float32)),
    }
    numbers = {name: torch.tensor(number) for name, number in zip(NUMBERS, (clip, centre, scale, *ppo.coefficients))}
    loss, statistics = ppo.loss(batch | numbers)

    with torch.no_grad():
        logits, values = (out.double().numpy() for out in ppo.module(batch["observations"]))
    total = {name: 0.0 for name in STATISTICS}
    for i in range(n):
        exponents = [math.exp(logit) for logit in logits[i]]
        probabilities = [e / sum(exponents) for e in exponents]
        old, advantage = math.exp(float(batch["log_probs"][i])), (float(batch["advantages"][i]) - centre) / scale
        ratio = probabilities[int(batch["actions"][i, 0])] / old
        kept = min(max(ratio, 1 - clip), 1 + clip)
        before = float(batch["values"][i])
        value = before + min(max(values[i] - before, -0.1), 0.1)
        total["policy_loss"] -= min(ratio * advantage, kept * advantage) / n
        total["value_loss"] += (value - float(batch["returns"][i])) ** 2 / n
        total["entropy"] -= sum(p * math.log(p) for p in probabilities) / n
        total["kl"] += (ratio - 1 - math.log(ratio)) / n
        total["clip_fraction"] += (abs(ratio - 1) > clip) / n
    total["loss"] = total["policy_loss"] + 0.5 * total["value_loss"] - 0.03 * total["entropy"]
    assert loss.item() == pytest.approx(total["loss"], rel=1e-4)
    for name, value in zip(STATISTICS, statistics.tolist()):
        assert value == pytest.approx(total[name], rel=1e-4, abs=1e-6), name


def test_what_a_time_limit_cut_off_is_worth_its_value(tmp_path: Path) -> None:
    """Rewards of 1 and episodes cut every 5 steps: where an episode was cut, γ V(last observation) is added."""
    ppo = make(tmp_path, "env.kwargs.max_episode_steps=5")
    seen = []
    receive = ppo.envs.receive
    ppo.envs.receive = lambda group: seen.append(receive(group)) or seen[-1]  # type: ignore
    ppo.collector.collect(0)
    cut = np.array([result.truncated & ~result.terminated for result in seen])
    assert cut.any() and not cut.all()
    for at, result in enumerate(seen):
        assert result.final_observations is None or np.isfinite(result.final_observations[cut[at]]).all()
        for env in range(4):
            expected = 1.0
            if cut[at, env]:
                assert result.final_observations is not None
                expected += 0.99 * float(ppo.collector.values(result.final_observations[env][None])[0])
            assert ppo.rollout.rewards[at, env] == pytest.approx(expected, abs=1e-5)


def test_an_episode_that_terminates_is_worth_nothing_more(tmp_path: Path) -> None:
    ppo = make(tmp_path, "env.count=8", "algorithm.rollout_steps=64", "algorithm.minibatch_size=64")
    ppo.collector.collect(0)
    ended = ppo.rollout.dones == 1
    assert ended.any() and (ppo.rollout.rewards[ended] == 1.0).all()


def test_updates_stop_before_the_step_that_would_go_too_far(tmp_path: Path) -> None:
    ppo = make(tmp_path, "algorithm.target_kl=1e-9", "algorithm.epochs=10")
    metrics = ppo.iterate(0).metrics
    assert ppo.learner.step.gradient_steps == 1, "the first step meets no divergence yet, the second does"
    assert metrics["kl"] > -1e-6, "float32 rounds it to about 1e-8 of zero"


def test_one_iteration_makes_every_update_and_counts_them(tmp_path: Path) -> None:
    done = make(tmp_path).iterate(0)
    assert (done.env_steps, done.gradient_steps) == (64, 4 * 4)
    assert {*STATISTICS, "lr", "explained_variance", "clip_range"} <= set(done.metrics)
    assert all(math.isfinite(value) for value in done.metrics.values())


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_it_learns_in_half_precision_too(kind: str, tmp_path: Path) -> None:
    ppo = make(tmp_path, f"precision.kind={kind}", env="tests.environments:Line-v0")
    for iteration in range(25):
        metrics = ppo.iterate(iteration).metrics
    assert metrics["return_mean"] > 15, "an episode of 20 steps; chance gives 10"
    assert ppo.learner.step.arena.parameters.dtype == torch.float32


def test_environments_in_groups_give_the_rollout_that_they_give_together(tmp_path: Path) -> None:
    """What the noise of an action is follows from environment and step; a matrix product of fewer rows may round
    otherwise, which is all that may differ."""
    rollouts = []
    for buffered in ("off", "on"):
        ppo = make(
            tmp_path,
            "env.backend=workers",
            "env.workers=2",
            f"env.double_buffer={buffered}",
            env="tests.environments:Line-v0",
        )
        assert len(ppo.envs.groups) == (2 if buffered == "on" else 1)
        ppo.collector.collect(0)
        ppo.collector.collect(1)
        rollouts.append(ppo.rollout)
        ppo.close()
    together, apart = rollouts
    for name in ("observations", "actions", "rewards", "true_rewards", "dones"):
        np.testing.assert_array_equal(getattr(together, name), getattr(apart, name), name)
    for name in ("values", "log_probs", "advantages", "returns"):
        np.testing.assert_allclose(getattr(together, name), getattr(apart, name), rtol=1e-5, atol=1e-5)


def test_a_step_that_only_begins_an_episode_is_learned_from_nowhere(tmp_path: Path) -> None:
    """Of a vector class that begins episodes in a step of their own: no sample has the last observation of an episode
    as what it acted on, and each is one that the environment made."""
    ppo = make(tmp_path, "env.backend=native", env="tests.environments:CountNextStep-v0")
    ppo.collector.collect(0)
    rollout = ppo.rollout
    length = 3 + np.arange(4)  # of environment i's episodes
    assert (rollout.observations[..., 1] < length).all()
    made = [
        {(tuple(o), float(r)) for o, r in zip(rollout.observations[:, env], rollout.returns[:, env])}
        for env in range(4)
    ]
    begun = 16 - 16 // (length + 1)
    assert [len(each) for each in made] == begun.tolist()
    ppo.close()


def test_the_gradient_is_that_of_equation_9(tmp_path: Path) -> None:
    """Of linear networks, by samples on both sides of the clips: ∂(-min(r A, clip(r) A))/∂logits is -r A (1[a] - π)
    where the first is the least, else 0; ∂(V - R)²/∂V is 2 (V - R) where the value is within its clip, else 0."""
    ppo = make(tmp_path, "network.hidden=[]", "algorithm.clip_range_value=0.2")
    draw = np.random.default_rng(1)
    n, clip = 256, 0.2
    states, actions = draw.normal(size=(n, 4)).astype(np.float32), draw.integers(0, 2, (n, 1))
    with torch.no_grad():
        for parameter in ppo.module.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
        logits, values = (out.double().numpy() for out in ppo.module(torch.from_numpy(states)))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    chosen = shares[np.arange(n), actions[:, 0]]
    old, advantages = chosen * draw.uniform(0.6, 1.6, n), draw.normal(size=n)
    before, returns = values + draw.uniform(-0.5, 0.5, n), draw.normal(size=n)
    given = {"log_probs": np.log(old), "advantages": advantages, "values": before, "returns": returns}
    batch = {name: torch.from_numpy(array.astype(np.float32)) for name, array in given.items()}
    batch |= {"observations": torch.from_numpy(states), "actions": torch.from_numpy(actions)}
    batch |= {name: torch.tensor(number) for name, number in zip(NUMBERS, (clip, 0.0, 1.0, *ppo.coefficients))}
    ppo.learner.step.gradient(lambda: ppo.loss(batch), 1.0)

    ratio = chosen / old
    follows = np.where(advantages > 0, ratio < 1 + clip, ratio > 1 - clip)
    assert 0.2 < follows.mean() < 0.8
    towards = np.eye(2)[actions[:, 0]] - shares
    by_logits = -(ratio * advantages * follows)[:, None] * towards / n
    inside = np.abs(values - before) < 0.2
    assert 0.2 < inside.mean() < 0.8
    by_value = 0.5 * 2 * (values - returns) * inside / n
    expected = {
        (2, 4): by_logits.T @ states,
        (2,): by_logits.sum(0),
        (1, 4): by_value[None] @ states,
        (1,): by_value.sum(keepdims=True),
    }
    found = ppo.learner.step.arena.gradients.split([parameter.numel() for parameter in ppo.learner.step.arena.members])
    for parameter, gradient in zip(ppo.learner.step.arena.members, found):
        formula = expected.pop(tuple(parameter.shape))
        np.testing.assert_allclose(gradient.view(parameter.shape).numpy(), formula, rtol=1e-3, atol=1e-5)
    assert not expected


def test_the_gradient_of_numbers_is_that_of_a_normal(tmp_path: Path) -> None:
    """Of linear networks: where the ratio is followed that of -r A log π, else 0; an entropy grows with log σ by 1."""
    more = "network.hidden=[]", "algorithm.entropy_coefficient=0.1", "algorithm.log_std_init=-0.7"
    ppo = make(tmp_path, *more, env="Pendulum-v1")
    draw = np.random.default_rng(1)
    n, clip = 256, 0.2
    states, actions = draw.normal(size=(n, 3)).astype(np.float32), draw.normal(size=(n, 1)).astype(np.float32)
    network, log_std = ppo.module.network, ppo.head.log_std.detach().double().numpy()
    with torch.no_grad():
        network.policy[0].weight.normal_(generator=torch.Generator().manual_seed(0))
        means, values = (out.double().numpy() for out in network(torch.from_numpy(states)))
    density = np.exp(-0.5 * ((actions - means) / np.exp(log_std)) ** 2) / np.exp(log_std) / math.sqrt(2 * math.pi)
    ratio, advantages = draw.uniform(0.6, 1.6, n), draw.normal(size=n)
    given = {"log_probs": np.log(density[:, 0] / ratio), "advantages": advantages, "values": values, "returns": values}
    batch = {name: torch.from_numpy(array.astype(np.float32)) for name, array in given.items()}
    batch |= {"observations": torch.from_numpy(states), "actions": torch.from_numpy(actions)}
    batch |= {name: torch.tensor(number) for name, number in zip(NUMBERS, (clip, 0.0, 1.0, *ppo.coefficients))}
    ppo.learner.step.gradient(lambda: ppo.loss(batch), 1.0)

    follows = np.where(advantages > 0, ratio < 1 + clip, ratio > 1 - clip)
    weights, biases, by_log_std = gaussian_policy_gradient(
        states, actions, means, log_std, ratio * advantages * follows
    )
    np.testing.assert_allclose(network.policy[0].weight.grad.numpy(), weights, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(network.policy[0].bias.grad.numpy(), biases, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ppo.head.log_std.grad.numpy(), by_log_std - 0.1, rtol=1e-3, atol=1e-4)
