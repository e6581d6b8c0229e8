"""SAC's losses written out, its temperature, targets and noise, and what it learns on environments that a person can
solve."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import torch

from harness.algorithms import Context
from harness.algorithms.sac import SAC, STATISTICS
from harness.config import load_run_config
from harness.distributed.transports.base import Alone
from harness.envs import make_environments
from harness.errors import BadInput, EnvironmentFault
from harness.reporting import PhaseTimer
from tests.conftest import need

CONFIG = """
[run]
steps = {steps}
[env]
id = "{env}"
count = 2
[algorithm]
name = "sac"
buffer_size = 2000
learning_starts = 100
batch_size = 16
train_freq = 4
gradient_steps = 4
gamma = 0.9
[network]
hidden = [16, 24]
activation = "relu"
[optimizer]
lr = 1e-3
[compile]
mode = "off"
"""
GSDE = ["algorithm.gsde=true", "algorithm.log_std_init=-1.0"]
FIXED = ["algorithm.temperature=0.2"]
SWITCHES = {"learned temperature": [], "fixed temperature": FIXED, "gsde": GSDE, "gsde, fixed": GSDE + FIXED}
AIM, ENDLESS = "tests.learning.probes:Echo-v0", "tests.learning.probes:Endless-v0"
CONTINUOUS = 'env.kwargs.kind="continuous"'


def make(folder: Path, *overrides: str, env: str = "Pendulum-v1", steps: int = 2560) -> SAC:
    (folder / "run.toml").write_text(CONFIG.format(env=env, steps=steps))
    config = load_run_config(str(folder / "run.toml"), overrides)
    assert config.env is not None
    envs = make_environments(config.env, 0, 1)
    config.algorithm.check_spaces(config, envs.observation_space, envs.action_space)
    play = lambda act, episodes, final: np.zeros(episodes)  # noqa: E731
    return SAC(Context(config, Alone(), torch.device("cpu"), PhaseTimer(), envs, play))


def drawn(sac: SAC) -> dict[str, np.ndarray]:
    """A minibatch of what an iteration has stored with its noise, the critics and their targets apart."""
    sac.iterate(0)
    draw = np.random.default_rng(0)
    with torch.no_grad():
        sac.target_parameters += 0.1 * torch.randn(len(sac.target_parameters))
        if sac.settings.gsde:
            sac.matrix.copy_(torch.from_numpy(draw.standard_normal(sac.matrix.shape)))
    sac.minibatches.draw(sac.updates, draw.random((1, 16)))
    sac.noise[:] = draw.standard_normal(sac.noise.shape)
    return {name: values[:16].numpy().astype(np.float64) for name, values in sac.data.items()}


def layered(network: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    """Linear layers with relu between them, in numpy."""
    linear = [layer for layer in network if isinstance(layer, torch.nn.Linear)]  # type: ignore[attr-defined]
    for number, layer in enumerate(linear):
        x = x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        x = np.maximum(x, 0.0) if number + 1 < len(linear) else x
    return x


def sampled(sac: SAC, observations: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Actions and log-probabilities by the density of a normal and of its tanh, sample by sample."""
    features = np.maximum(layered(sac.module.actor.trunk, observations), 0.0)
    outputs = layered([sac.module.actor.head], features)  # type: ignore[arg-type]
    actions, log_probs = np.zeros((len(outputs), 1)), np.zeros(len(outputs))
    for i, output in enumerate(outputs):
        if sac.settings.gsde:
            std_matrix = np.exp(sac.module.log_std.detach().double().numpy())
            mean = min(max(output[0], -2.0), 2.0)
            away = sum(features[i, f] * std_matrix[f, 0] * float(sac.matrix[f, 0]) for f in range(24))
            variance = sum((features[i, f] * std_matrix[f, 0]) ** 2 for f in range(24)) + 1e-6
        else:
            mean, std = output[0], math.exp(min(max(output[1], -20.0), 2.0))
            away, variance = std * noise[i, 0], std**2
        free = mean + away
        density = math.exp(-(away**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        actions[i], log_probs[i] = math.tanh(free), math.log(density / (1 - math.tanh(free) ** 2))
    return actions, log_probs


@pytest.mark.parametrize("switch", SWITCHES)
def test_the_losses_are_the_papers(switch: str, tmp_path: Path) -> None:
    """Equations 5, 9 and 18 of Haarnoja et al. 2018b, with the lesser of two critics, and log α for α in 18."""
    sac = make(tmp_path, *SWITCHES[switch])
    batch = drawn(sac)
    loss, statistics = sac.loss({name: values[:16] for name, values in sac.data.items()})

    alpha = float(sac.module.log_temperature.detach().exp())
    seen, after = batch["observations"], batch["next_observations"]
    noise = batch["noise"] if not sac.settings.gsde else np.zeros((16, 2, 1))
    next_actions, next_log_probs = sampled(sac, after, noise[:, 1])
    actions, log_probs = sampled(sac, seen, noise[:, 0])

    def values(critics: torch.nn.Module, observations: np.ndarray, chosen: np.ndarray) -> list[np.ndarray]:
        pairs = np.concatenate([observations, chosen], 1)
        return [layered(critic.layers, pairs)[:, 0] for critic in critics]  # type: ignore[attr-defined]

    soft_value = np.min(values(sac.targets, after, next_actions), 0) - alpha * next_log_probs
    targets = batch["returns"] + batch["discounts"] * soft_value
    of_data = values(sac.module.critics, seen, batch["actions"])
    critic_loss = sum(np.mean(0.5 * (each - targets) ** 2) for each in of_data)
    actor_loss = np.mean(alpha * log_probs - np.min(values(sac.module.critics, seen, actions), 0))
    temperature_loss = -np.mean(math.log(alpha) * (log_probs - 1.0)) if sac.learns_temperature else 0.0
    found = dict(zip(STATISTICS, statistics.tolist()))
    assert found["critic_loss"] == pytest.approx(critic_loss, rel=1e-4)
    assert found["actor_loss"] == pytest.approx(actor_loss, rel=1e-4, abs=1e-5)
    assert float(loss.detach()) == pytest.approx(critic_loss + actor_loss + temperature_loss, rel=1e-4, abs=1e-5)
    assert found["q_mean"] == pytest.approx(of_data[0].mean(), rel=1e-4)
    assert found["entropy"] == pytest.approx(-log_probs.mean(), rel=1e-4, abs=1e-5)
    assert found["temperature"] == pytest.approx(alpha, rel=1e-5)


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_loss_changes_its_own_parameters_alone(
    switch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient by finite differences of the losses for themselves: critics by J_Q, the actor by J_π, α by J(α)."""
    sac = make(tmp_path, *SWITCHES[switch])
    drawn(sac)
    batch = {name: values[:16] for name, values in sac.data.items()}
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)  # differences need all digits
    sac.module.double()
    sac.targets.double()
    sac.matrix = sac.matrix.double()
    batch = {name: values.double() for name, values in batch.items()}
    loss, _ = sac.loss(batch)
    named = {name: each for name, each in sac.module.named_parameters() if each.requires_grad}
    gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values()))))

    def part(name: str) -> float:
        statistics = dict(zip(STATISTICS, sac.loss(batch)[1].tolist()))
        if name == "log_temperature":
            return -sac.module.log_temperature.item() * (-statistics["entropy"] + sac.target_entropy)
        return statistics["critic_loss" if name.startswith("critics") else "actor_loss"]

    rng = np.random.default_rng(1)
    for name, parameter in named.items():
        own = "actor" if name == "log_std" else name
        flat = parameter.data.reshape(-1)
        for at in rng.integers(flat.numel(), size=4):
            change, differences = 1e-6, []
            for sign in (1, -1):
                flat[at] += sign * change
                differences.append(part(own))
                flat[at] -= sign * change
            expected = (differences[0] - differences[1]) / (2 * change)
            assert float(gradients[name].reshape(-1)[at]) == pytest.approx(expected, rel=2e-3, abs=2e-6), name


def test_targets_follow_the_critics_by_tau(tmp_path: Path) -> None:
    sac = make(tmp_path, "algorithm.tau=0.1", "algorithm.target_update_interval=3")
    sac.iterate(0)
    moved = []
    for number in range(6):
        drawn_at = np.random.default_rng(number).random((1, 16))
        sac.minibatches.draw(number, drawn_at)
        before = {name: value.clone() for name, value in sac.targets.state_dict().items()}
        sac.update(number, slice(0, 16), sac.noise)
        moved.append(any(not torch.equal(before[name], value) for name, value in sac.targets.state_dict().items()))
        for name, learned in sac.module.critics.state_dict().items():
            expected = 0.9 * before[name] + 0.1 * learned if moved[-1] else before[name]
            torch.testing.assert_close(sac.targets.state_dict()[name], expected)
    assert moved == [False, False, True, False, False, True]


def test_the_temperature_falls_while_there_is_more_entropy_than_wanted(tmp_path: Path) -> None:
    for wanted, falls in ((-5.0, True), (5.0, False)):
        sac = make(tmp_path, f"algorithm.target_entropy={wanted}", "algorithm.initial_temperature=0.5")
        for iteration in range(2):
            temperature = sac.iterate(iteration).metrics.get("temperature")
        assert temperature is not None and (temperature < 0.5) == falls
    fixed = make(tmp_path, *FIXED)
    fixed.iterate(0)
    assert fixed.iterate(1).metrics["temperature"] == pytest.approx(0.2)


@pytest.mark.parametrize("switch", SWITCHES)
def test_actions_by_numpy_are_those_that_are_learned_from(switch: str, tmp_path: Path) -> None:
    """What explores is what the loss samples with the same noise; the best action has none."""
    sac = make(tmp_path, *SWITCHES[switch])
    batch = drawn(sac)
    sac.prepare(3)
    seen = batch["observations"][:2].astype(np.float32)
    noise = np.zeros((2, 2, 1))
    if sac.settings.gsde:
        sac.action_noise[sac.drawing[5]] = sac.matrix.numpy()
    else:
        noise[:, 0] = sac.action_noise[5]
    assert sac.acting.parts and sac.explore_near(5, seen) == pytest.approx(sampled(sac, seen, noise[:, 0])[0], abs=1e-5)
    sac.matrix.zero_()
    assert sac.best(seen) == pytest.approx(sampled(sac, seen, np.zeros((2, 1)))[0], abs=1e-5)
    assert sac.act_deterministic(seen) == pytest.approx(
        2.0 * sac.best(seen), abs=1e-6
    ), "Pendulum's bounds are -2 and 2"


def test_matrices_of_noise_are_held_for_so_many_steps_of_a_round(tmp_path: Path) -> None:
    sac = make(tmp_path, *GSDE, "algorithm.train_freq=10", "algorithm.sde_sample_freq=2")
    sac.prepare(0)
    assert sac.drawing[:11].tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 6], "5 steps of 2 environments are a round"
    assert sac.action_noise.shape == (sac.drawing[-1] + 1, 2, 24, 1)
    once = make(tmp_path, *GSDE, "algorithm.train_freq=10")
    once.prepare(0)
    assert once.drawing[:11].tolist() == [0] * 5 + [1] * 5 + [2]


def test_actions_are_random_until_learning_starts(tmp_path: Path) -> None:
    sac = make(tmp_path)
    first = sac.iterate(0)
    assert first.gradient_steps == 4 * ((first.env_steps - 100) // 4 + 1)
    assert np.array_equal(np.flatnonzero(sac.random), np.arange(50))
    actions = sac.replay.actions.reshape(2, -1)[:, :50]
    assert np.array_equal(actions, sac.random_actions[:50, :, 0].T) and actions.min() < -0.8 and actions.max() > 0.8
    assert {*STATISTICS, "lr", "episodes", "return_mean"} - set(first.metrics) == {"episodes", "return_mean"}


@pytest.mark.parametrize("switch", ["learned temperature", "gsde, fixed"])
@pytest.mark.slow
def test_compiled_is_eager(switch: str, tmp_path: Path) -> None:
    need(which("g++"), "a C++ compiler")
    parameters = []
    for mode in ("off", "on"):
        sac = make(tmp_path, *SWITCHES[switch], f"compile.mode={mode}")
        assert (sac.compiled is not None) == (mode == "on"), sac.compile_reason
        sac.iterate(0)
        parameters.append(torch.cat([sac.step.arena.parameters, sac.target_parameters]))
    start = make(tmp_path, *SWITCHES[switch])
    begun = torch.cat([start.step.arena.parameters, start.target_parameters])
    assert (parameters[0] - parameters[1]).norm() < 1e-3 * (parameters[0] - begun).norm()


@pytest.mark.parametrize("switch", ["fixed temperature", "gsde, fixed"])
@pytest.mark.slow
def test_it_learns_to_answer_what_it_sees(switch: str, tmp_path: Path) -> None:
    more = ["algorithm.temperature=0.01", CONTINUOUS, "optimizer.lr=3e-3", "algorithm.gamma=0.0"]
    sac = make(tmp_path, *SWITCHES[switch], *more, env=AIM, steps=3000)
    for iteration in range(sac.iterations):
        sac.iterate(iteration)
    cues = np.linspace(-0.8, 0.8, 9, dtype=np.float32)[:, None]
    assert np.abs(sac.act_deterministic(cues) - cues).max() < 0.2


def test_what_a_time_limit_cuts_off_keeps_its_value(tmp_path: Path) -> None:
    """1 a step for ever at γ = 0.6 is worth 2.5, though episodes are cut after 5 steps; without a bootstrap there the
    value before the limit would be 1."""
    more = ["algorithm.temperature=1e-3", CONTINUOUS, "optimizer.lr=3e-3", "algorithm.gamma=0.6", "algorithm.tau=0.05"]
    sac = make(tmp_path, *more, env=ENDLESS, steps=3000)
    for iteration in range(sac.iterations):
        sac.iterate(iteration)
    assert sac.values(np.linspace(0, 1, 6, dtype=np.float32)[:, None]) == pytest.approx(2.5, abs=0.2)


def test_a_loaded_state_goes_on_as_it_would_have(tmp_path: Path) -> None:
    sac = make(tmp_path)
    sac.iterate(0)
    other = make(tmp_path, "seed=5")
    other.load_state(copy.deepcopy(sac.state()))
    for name in ("module", "targets"):
        for mine, others in zip(getattr(sac, name).parameters(), getattr(other, name).parameters()):
            assert torch.equal(mine, others)
    for algorithm in (sac, other):  # the same minibatch and noise
        algorithm.noise[:] = np.random.default_rng(1).standard_normal(algorithm.noise.shape)
        for name, values in algorithm.minibatches.arrays.items():
            values[:] = sac.minibatches.arrays[name]
        algorithm.update(algorithm.updates, slice(0, 16), algorithm.noise)
    assert torch.equal(sac.step.arena.parameters, other.step.arena.parameters)
    assert torch.equal(sac.target_parameters, other.target_parameters) and sac.updates == other.updates


def test_rewards_that_are_no_numbers_end_the_run(tmp_path: Path) -> None:
    sac = make(tmp_path, "env.kwargs.how=nan-reward", "env.kwargs.rank=0", env="tests.environments:BrokenPush-v0")
    with pytest.raises(EnvironmentFault, match="environment 0 gave nan as its reward in its step 10"):
        for iteration in range(3):
            sac.iterate(iteration)


REFUSED = {
    "env.id=CartPole-v1": "env.id = 'CartPole-v1' has Discrete(2) actions; with sac they must be a Box",
    "algorithm.train_freq=3": "algorithm.train_freq must be a multiple of env.count = 2, got 3",
    "algorithm.temperature=0": "algorithm.temperature must be > 0, got 0",
    "network.class=torch.nn:Identity": "network.class must be absent with sac, whose networks are an actor and two",
    "network.kind=cnn": "network.kind must be auto or mlp with sac, got 'cnn'",
    "env.id=tests.environments:Unbounded-v0": "env.id = 'tests.environments:Unbounded-v0' has actions without bounds",
}


@pytest.mark.parametrize("override", REFUSED)
def test_settings_that_do_not_fit_are_refused_in_one_line(override: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        make(tmp_path, override)
    assert str(refused.value).startswith(REFUSED[override]) and "\n" not in str(refused.value)
