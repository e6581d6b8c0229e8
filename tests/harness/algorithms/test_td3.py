"""TD3's losses written out, its delays, noise and targets, and what it learns on environments that a person can
solve."""

from __future__ import annotations

import copy
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import torch

from harness.algorithms import Context
from harness.algorithms.td3 import TD3
from harness.config import load_run_config
from harness.distributed.transports.base import Alone
from harness.envs import make_environments
from harness.errors import BadInput
from harness.reporting import PhaseTimer
from tests.conftest import need
from tests.harness.algorithms.test_sac import AIM
from tests.harness.algorithms.test_sac import CONFIG as SAC_CONFIG
from tests.harness.algorithms.test_sac import CONTINUOUS, ENDLESS, layered

CONFIG = SAC_CONFIG.replace('name = "sac"', 'name = "td3"')


def make(folder: Path, *overrides: str, env: str = "Pendulum-v1", steps: int = 2560) -> TD3:
    (folder / "run.toml").write_text(CONFIG.format(env=env, steps=steps))
    config = load_run_config(str(folder / "run.toml"), overrides)
    assert config.env is not None
    envs = make_environments(config.env, 0, 1)
    config.algorithm.check_spaces(config, envs.observation_space, envs.action_space)
    play = lambda act, episodes, final: np.zeros(episodes)  # noqa: E731
    return TD3(Context(config, Alone(), torch.device("cpu"), PhaseTimer(), envs, play))


def drawn(td3: TD3) -> dict[str, np.ndarray]:
    """A minibatch of what an iteration has stored with its noise, the networks and their targets apart."""
    td3.iterate(0)
    draw = np.random.default_rng(0)
    with torch.no_grad():
        td3.target_parameters += 0.1 * torch.randn(len(td3.target_parameters))
    td3.minibatches.draw(td3.updates, draw.random((1, 16)))
    td3.noise[:] = draw.standard_normal(td3.noise.shape)
    return {name: values[:16].numpy().astype(np.float64) for name, values in td3.data.items()}


def acted(actor: torch.nn.Module, observations: np.ndarray) -> np.ndarray:
    features = np.maximum(layered(actor.trunk, observations), 0.0)  # type: ignore[arg-type]
    return np.tanh(layered([actor.head], features))  # type: ignore[arg-type, list-item]


def test_the_losses_are_the_papers(tmp_path: Path) -> None:
    """Algorithm 1 of Fujimoto et al. 2018: the lesser critic at a smoothed action; the actor by the first."""
    td3 = make(tmp_path, "algorithm.target_policy_noise=0.4", "algorithm.target_noise_clip=0.3")
    batch = drawn(td3)
    data = {name: values[:16] for name, values in td3.data.items()}
    loss, statistics = td3.critic_loss(data)
    actor_loss, _ = td3.actor_loss(data)

    def value(critic: torch.nn.Module, observation: np.ndarray, action: float) -> float:
        return float(layered(critic.layers, np.append(observation, action)[None])[0, 0])  # type: ignore[arg-type]

    first, second = td3.module.critics
    total, expected_actor, clipped = 0.0, 0.0, 0
    for i in range(16):
        after = batch["next_observations"][i]
        noise = 0.4 * batch["noise"][i, 0, 0]
        clipped += abs(noise) > 0.3
        action = acted(td3.targets.actor, after[None])[0, 0] + min(max(noise, -0.3), 0.3)
        action = min(max(action, -1.0), 1.0)
        least = min(value(critic, after, action) for critic in td3.targets.critics)
        target = batch["returns"][i] + batch["discounts"][i] * least
        seen = batch["observations"][i]
        for critic in (first, second):
            total += (value(critic, seen, batch["actions"][i, 0]) - target) ** 2 / 16
        expected_actor -= value(first, seen, acted(td3.module.actor, seen[None])[0, 0]) / 16
    assert 0 < clipped < 16
    assert float(loss.detach()) == pytest.approx(total, rel=1e-4)
    assert float(statistics[0]) == pytest.approx(total, rel=1e-4)
    assert float(actor_loss.detach()) == pytest.approx(expected_actor, rel=1e-4)


def test_the_actors_gradient_is_the_deterministic_policy_gradient(tmp_path: Path) -> None:
    """Equation 1: dQ/da at the policy's action times dπ/dφ, by the chain rule; the critics learn nothing from it."""
    td3 = make(tmp_path)
    drawn(td3)
    data = {name: values[:16] for name, values in td3.data.items()}
    names, actor = zip(*td3.module.actor.named_parameters())
    critics = list(td3.module.critics.parameters())
    found = torch.autograd.grad(td3.actor_loss(data)[0], [*actor, *critics], allow_unused=True)
    assert all(gradient is None for gradient in found[len(actor) :])
    actions = td3.module.actor(data["observations"])[1].tanh()
    free = actions.detach().requires_grad_()
    slopes = torch.autograd.grad(td3.module.critics[0](data["observations"], free).sum(), free)[0]
    expected = torch.autograd.grad(actions, actor, grad_outputs=-slopes / 16)
    for name, mine, its in zip(names, found, expected):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6, msg=name)


def test_the_critics_gradient_is_that_of_their_squared_errors(tmp_path: Path) -> None:
    """Of linear critics w (s, a) + b: 2 (Q - y) (s, a), and nothing is of the target y or the actor."""
    td3 = make(tmp_path, "network.hidden=[]")
    batch = drawn(td3)
    data = {name: values[:16] for name, values in td3.data.items()}
    critics = [each for critic in td3.module.critics for each in critic.parameters()]
    actor = list(td3.module.actor.parameters())
    found = torch.autograd.grad(td3.critic_loss(data)[0], [*critics, *actor], allow_unused=True)
    assert all(gradient is None for gradient in found[len(critics) :])

    def values(critic: torch.nn.Module, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return layered(critic.layers, np.concatenate([observations, actions], 1))[:, 0]  # type: ignore[arg-type]

    noise = np.clip(0.2 * batch["noise"][:, 0], -0.5, 0.5)
    following = np.tanh(layered([td3.targets.actor.head], batch["next_observations"])) + noise  # type: ignore
    after = [values(each, batch["next_observations"], following.clip(-1, 1)) for each in td3.targets.critics]
    targets = batch["returns"] + batch["discounts"] * np.minimum(*after)
    pairs = np.concatenate([batch["observations"], batch["actions"]], 1)
    for number, critic in enumerate(td3.module.critics):
        errors = values(critic, batch["observations"], batch["actions"]) - targets
        by_weight, by_bias = found[2 * number : 2 * number + 2]
        np.testing.assert_allclose(by_weight.numpy(), 2 * errors[None] @ pairs / 16, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(by_bias.numpy(), [2 * errors.mean()], rtol=1e-3, atol=1e-5)


def test_actor_and_targets_follow_every_so_many_updates(tmp_path: Path) -> None:
    td3 = make(tmp_path, "algorithm.policy_delay=3", "algorithm.tau=0.1")
    td3.iterate(0)
    delayed = []
    for number in range(6):
        td3.minibatches.draw(number, np.random.default_rng(number).random((1, 16)))
        actor, targets = td3.actor.step.arena.parameters.clone(), td3.targets.state_dict()
        before = {name: value.clone() for name, value in targets.items()}
        critics = td3.critics.step.arena.parameters.clone()
        td3.update(number, slice(0, 16), td3.noise)
        assert not torch.equal(critics, td3.critics.step.arena.parameters)
        delayed.append(not torch.equal(actor, td3.actor.step.arena.parameters))
        for name, learned in td3.module.state_dict().items():
            expected = 0.9 * before[name] + 0.1 * learned if delayed[-1] else before[name]
            torch.testing.assert_close(td3.targets.state_dict()[name], expected)
    assert delayed == [False, False, True, False, False, True]


def test_exploration_is_normal_noise_on_actions_within_their_bounds(tmp_path: Path) -> None:
    td3 = make(tmp_path, "algorithm.action_noise=0.3")
    td3.prepare(2)
    seen = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    steps = range(len(td3.dones))
    away = np.stack([td3.explore(step, seen) - td3.best(seen) for step in steps])
    assert away.std() == pytest.approx(0.3, rel=0.2) and abs(away.mean()) < 0.06
    td3.action_noise[:] = 100.0
    assert (td3.explore(0, seen) == 1.0).all()
    assert td3.for_environment(np.array([[-1.0], [0.5]], np.float32)).tolist() == [[-2.0], [1.0]]
    assert td3.acting.parts and td3.best(seen) == pytest.approx(acted(td3.module.actor, seen), abs=1e-6)


@pytest.mark.slow
def test_compiled_is_eager(tmp_path: Path) -> None:
    need(which("g++"), "a C++ compiler")
    parameters = []
    for mode in ("off", "on"):
        td3 = make(tmp_path, f"compile.mode={mode}")
        assert (
            (td3.compiled is not None) == (td3.actor.compiled is not None) == (mode == "on")
        ), td3.critics.compile_reason
        td3.iterate(0)
        vectors = td3.critics.step.arena.parameters, td3.actor.step.arena.parameters, td3.target_parameters
        parameters.append(torch.cat(vectors))
    start = make(tmp_path)
    vectors = start.critics.step.arena.parameters, start.actor.step.arena.parameters, start.target_parameters
    assert (parameters[0] - parameters[1]).norm() < 1e-3 * (parameters[0] - torch.cat(vectors)).norm()


@pytest.mark.slow
def test_it_learns_to_answer_what_it_sees(tmp_path: Path) -> None:
    td3 = make(tmp_path, CONTINUOUS, "optimizer.lr=3e-3", "algorithm.gamma=0.0", env=AIM, steps=3000)
    for iteration in range(td3.iterations):
        td3.iterate(iteration)
    cues = np.linspace(-0.8, 0.8, 9, dtype=np.float32)[:, None]
    assert np.abs(td3.act_deterministic(cues) - cues).max() < 0.2


def test_what_a_time_limit_cuts_off_keeps_its_value(tmp_path: Path) -> None:
    """1 a step for ever at γ = 0.6 is worth 2.5, though episodes are cut after 5 steps; without a bootstrap there the
    value before the limit would be 1."""
    more = [CONTINUOUS, "optimizer.lr=3e-3", "algorithm.gamma=0.6", "algorithm.tau=0.05"]
    td3 = make(tmp_path, *more, env=ENDLESS, steps=3000)
    for iteration in range(td3.iterations):
        td3.iterate(iteration)
    assert td3.values(np.linspace(0, 1, 6, dtype=np.float32)[:, None]) == pytest.approx(2.5, abs=0.2)


def test_a_loaded_state_goes_on_as_it_would_have(tmp_path: Path) -> None:
    td3 = make(tmp_path)
    td3.iterate(0)
    other = make(tmp_path, "seed=5")
    other.load_state(copy.deepcopy(td3.state()))
    for algorithm in (td3, other):  # the same minibatch and noise
        algorithm.noise[:] = np.random.default_rng(1).standard_normal(algorithm.noise.shape)
        for name, values in algorithm.minibatches.arrays.items():
            values[:] = td3.minibatches.arrays[name]
        for number in (0, 1):
            algorithm.update(number, slice(0, 16), algorithm.noise)
    assert torch.equal(td3.critics.step.arena.parameters, other.critics.step.arena.parameters)
    assert torch.equal(td3.actor.step.arena.parameters, other.actor.step.arena.parameters)
    assert torch.equal(td3.target_parameters, other.target_parameters) and td3.updates == other.updates


REFUSED = {
    "env.id=CartPole-v1": "env.id = 'CartPole-v1' has Discrete(2) actions; with td3 they must be a Box",
    "algorithm.policy_delay=0": "algorithm.policy_delay must be >= 1, got 0",
    "env.id=tests.environments:Unbounded-v0": "env.id = 'tests.environments:Unbounded-v0' has actions without bounds",
}


@pytest.mark.parametrize("override", REFUSED)
def test_settings_that_do_not_fit_are_refused_in_one_line(override: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        make(tmp_path, override)
    assert str(refused.value).startswith(REFUSED[override]) and "\n" not in str(refused.value)
