"""DQN's losses written out, its schedules, and what it learns on environments that a person can solve."""

from __future__ import annotations

import math
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
import torch

from harness.algorithms import Context
from harness.algorithms.dqn import DQN, STATISTICS
from harness.config import load_run_config
from harness.distributed.transports.base import Alone
from harness.envs import make_environments
from harness.errors import BadInput, EnvironmentFault
from harness.models.q_network import QNetwork
from harness.reporting import PhaseTimer
from tests.conftest import need

CONFIG = """
[run]
steps = {steps}
[env]
id = "{env}"
count = 2
[algorithm]
name = "dqn"
buffer_size = 2000
learning_starts = 100
batch_size = 16
train_freq = 8
gradient_steps = 4
target_update_interval = 50
gamma = 0.9
[network]
hidden = [32, 32]
activation = "relu"
[optimizer]
lr = 2e-3
[compile]
mode = "off"
"""
LINE, MATCH, CONSTANT = (f"tests.environments:{name}-v0" for name in ("Line", "Match", "Constant"))
SWITCHES = {
    "plain": [],
    "double": ["algorithm.double=true"],
    "dueling": ["algorithm.dueling=true"],
    "n-step": ["algorithm.n_steps=3"],
    "prioritized": ["algorithm.prioritized=true"],
    "quantiles": ["algorithm.quantiles=8"],
    "all": ["algorithm.double=true", "algorithm.dueling=true", "algorithm.n_steps=3", "algorithm.prioritized=true"]
    + ["algorithm.quantiles=8"],
}


def make(folder: Path, *overrides: str, env: str = "CartPole-v1", steps: int = 2560) -> DQN:
    (folder / "run.toml").write_text(CONFIG.format(env=env, steps=steps))
    config = load_run_config(str(folder / "run.toml"), overrides)
    assert config.env is not None
    envs = make_environments(config.env, 0, 1)
    DQN.check(config, envs.observation_space, envs.action_space)
    DQN.check_ranks(config, Alone())
    play = lambda act, episodes, final: np.zeros(episodes)  # noqa: E731
    return DQN(Context(config, Alone(), torch.device("cpu"), PhaseTimer(), envs, play))


def drawn(dqn: DQN) -> dict[str, np.ndarray]:
    """A minibatch of what two iterations have stored, the network and its target apart from each other."""
    for iteration in range(2):
        dqn.iterate(iteration)
    with torch.no_grad():
        dqn.target_parameters += 0.1 * torch.randn(len(dqn.target_parameters))
    dqn.draw(dqn.updates, np.random.default_rng(0).random((1, 16)), beta=0.5)
    return {name: array[:16].astype(np.float64) for name, array in dqn.minibatches.arrays.items()}


def huber(error: float) -> float:
    return 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("quantiles", [0, 3])
@pytest.mark.parametrize("prioritized", [False, True])
def test_the_loss_is_the_papers(prioritized: bool, quantiles: int, double: bool, tmp_path: Path) -> None:
    """The targets of Mnih et al. 2015 or van Hasselt et al. 2016, with the loss of the former or of Dabney et al."""
    switches = {"double": double, "quantiles": quantiles, "prioritized": prioritized, "n_steps": 2}
    dqn = make(tmp_path, *(f"algorithm.{name}={str(value).lower()}" for name, value in switches.items()))
    batch = drawn(dqn)
    loss, statistics, errors = dqn.loss({name: values[:16] for name, values in dqn.data.items()})

    def values_of(network: torch.nn.Module, observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(observations.astype(np.float32))).double().numpy()

    now, after = (values_of(dqn.module, batch[name]) for name in ("observations", "next_observations"))
    targets_after = values_of(dqn.target, batch["next_observations"])
    count = max(quantiles, 1)
    total, apart = 0.0, []
    for i in range(16):
        prefers = after[i] if double else targets_after[i]
        best = max(range(2), key=lambda action: sum(prefers[action]))
        target = [batch["returns"][i] + batch["discounts"][i] * each for each in targets_after[i][best]]
        chosen = now[i][int(batch["actions"][i])]
        if quantiles:
            of_sample = 0.0
            for at, quantile in enumerate(chosen):
                tau = (at + 0.5) / count
                for each in target:
                    of_sample += abs(tau - (each < quantile)) * huber(each - quantile) / count
            error = of_sample
        else:
            error = target[0] - chosen[0]
            of_sample = huber(error)
        apart.append(abs(sum(target) - sum(chosen)) / count)
        assert float(errors[i]) == pytest.approx(error, rel=1e-4, abs=1e-5)
        total += of_sample * (batch["weights"][i] if prioritized else 1.0) / 16
    assert float(loss.detach()) == pytest.approx(total, rel=1e-4)
    found = dict(zip(STATISTICS, statistics.tolist()))
    assert found["loss"] == pytest.approx(total, rel=1e-4) and found["td_error"] == pytest.approx(
        np.mean(apart), rel=1e-4
    )


@pytest.mark.parametrize("quantiles", [0, 3])
@pytest.mark.parametrize("prioritized", [False, True])
def test_the_gradient_follows_the_chosen_value_alone(prioritized: bool, quantiles: int, tmp_path: Path) -> None:
    """Of linear values W s + b: the slope of Huber's loss at the error, times w, on the row of the action; nothing is
    of the target. Of quantiles that is the mean over the target's, each times |τ - 1[error < 0]|."""
    switches = f"algorithm.prioritized={str(prioritized).lower()}", f"algorithm.quantiles={quantiles}"
    dqn = make(tmp_path, "network.hidden=[]", *switches)
    count = max(quantiles, 1)
    batch = drawn(dqn)
    dqn.learner.gradient(slice(0, 16), 1.0)

    with torch.no_grad():
        values = dqn.module(torch.from_numpy(batch["observations"].astype(np.float32))).numpy()
        after = dqn.target(torch.from_numpy(batch["next_observations"].astype(np.float32))).numpy()
    weights, biases = np.zeros((2 * count, 4)), np.zeros(2 * count)
    for i, action in enumerate(batch["actions"].astype(int)):
        best = max(after[i], key=sum)
        for at in range(count):
            slope = 0.0
            for following in best:
                error = batch["returns"][i] + batch["discounts"][i] * following - values[i, action, at]
                share = abs((at + 0.5) / count - (error < 0)) if quantiles else 1.0
                slope -= share * max(-1.0, min(1.0, error)) / count
            slope *= (batch["weights"][i] if prioritized else 1.0) / 16
            weights[action * count + at] += slope * batch["observations"][i]
            biases[action * count + at] += slope
    expected = {weights.shape: weights, biases.shape: biases}
    found = dqn.learner.step.arena.gradients.split([parameter.numel() for parameter in dqn.learner.step.arena.members])
    for parameter, gradient in zip(dqn.learner.step.arena.members, found):
        formula = expected.pop(tuple(parameter.shape))
        np.testing.assert_allclose(gradient.view(parameter.shape).numpy(), formula, rtol=1e-3, atol=1e-5)
    assert not expected


def test_importance_weights_are_divided_by_their_largest(tmp_path: Path) -> None:
    """The step's gradient is that of the weighted mean with w / max w (Schaul et al. 2016, section 3.4)."""
    dqn = make(tmp_path, "algorithm.prioritized=true", "optimizer.name=sgd", "algorithm.max_grad_norm=1e9")
    batch = drawn(dqn)
    assert batch["weights"].min() < 0.9 * batch["weights"].max()
    data = {name: values[:16].clone() for name, values in dqn.data.items()}
    data["weights"] /= data["weights"].max()
    expected = torch.autograd.grad(dqn.loss(data)[0], list(dqn.module.parameters()))
    before = dqn.learner.step.arena.parameters.clone()
    dqn.update(slice(0, 16))
    moved = (before - dqn.learner.step.arena.parameters) / dqn.learner.learning_rate.value
    torch.testing.assert_close(moved, torch.cat([each.ravel() for each in expected]), rtol=1e-3, atol=1e-5)


def test_errors_become_the_priorities_of_what_was_drawn(tmp_path: Path) -> None:
    dqn = make(tmp_path, "algorithm.prioritized=true")
    drawn(dqn)
    dqn.update(slice(0, 16))
    errors = dqn.data["errors"][:16].numpy().astype(np.float64)
    leaves = dqn.replay.leaves(dqn.minibatches.env, dqn.minibatches.numbers)  # type: ignore[attr-defined]
    assert dqn.replay.tree.leaves[leaves] == pytest.approx((np.abs(errors) + 1e-6) ** 0.6)  # type: ignore[attr-defined]


@pytest.mark.parametrize("quantiles", [1, 4])
def test_a_dueling_network_is_equation_9(quantiles: int, tmp_path: Path) -> None:
    """Q = V + A - mean A of Wang et al. 2016, for each quantile."""
    dqn = make(tmp_path, "algorithm.dueling=true", f"algorithm.quantiles={quantiles}")
    network, seen = dqn.module, torch.randn(5, 4)
    assert isinstance(network, QNetwork)
    with torch.no_grad():
        features = network.trunk(seen)
        value, advantage = network.value(features), network.advantage(features).view(5, 2, quantiles)
        for action in range(2):
            expected = value + advantage[:, action] - (advantage[:, 0] + advantage[:, 1]) / 2
            torch.testing.assert_close(network(seen)[:, action], expected)


@pytest.mark.parametrize("switch", SWITCHES)
def test_actions_are_greedy_by_numpy_as_by_the_module(switch: str, tmp_path: Path) -> None:
    dqn = make(tmp_path, *SWITCHES[switch])
    seen = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    with torch.no_grad():
        expected = dqn.module(torch.from_numpy(seen)).mean(-1).argmax(-1).numpy()
    assert dqn.greedy.parts and (dqn.act_deterministic(seen) == expected).all() and 0 < expected.sum() < 200


def test_epsilon_falls_in_a_straight_line_by_steps_of_all_environments(tmp_path: Path) -> None:
    dqn = make(tmp_path, "algorithm.exploration_fraction=0.5", "algorithm.exploration_final_eps=0.1", "env.count=4")
    assert dqn.iterations * dqn.env_steps_per_iteration == 2560
    assert dqn.epsilon(99) == 1.0, "random before learning starts"
    assert dqn.epsilon(640) == pytest.approx(1.0 - 0.9 * 0.5)
    assert dqn.epsilon(1280) == dqn.epsilon(2560) == pytest.approx(0.1)
    dqn.prepare(9)
    assert dqn.random.shape == (64, 4) and dqn.random.mean() == pytest.approx(0.1, abs=0.06)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (24, [True, False, False, True, False, False, True, False]),
        (20, [True, False, True, False, False, True, False, True]),
    ],
    ids=["every third round", "at the round that reaches or passes it"],
)
def test_the_target_is_copied_every_so_many_steps_and_stands_still_between(
    interval: int, expected: list[bool], tmp_path: Path
) -> None:
    dqn = make(tmp_path, f"algorithm.target_update_interval={interval}")
    dqn.iterate(0)
    copies = []
    for steps in range(264, 264 + 8 * 8, 8):
        before = dqn.target_parameters.clone()
        dqn.learner.step.arena.parameters += 0.01
        dqn.on_round(steps)
        moved = not torch.equal(before, dqn.target_parameters)
        assert not moved or torch.equal(dqn.target_parameters, dqn.learner.step.arena.parameters)
        copies.append(moved)
    assert copies == expected


def test_an_iteration_counts_its_steps_and_updates(tmp_path: Path) -> None:
    dqn = make(tmp_path)
    first, second = dqn.iterate(0), dqn.iterate(1)
    assert first.env_steps == second.env_steps == 256
    assert first.gradient_steps == 4 * 20, "from step 104 on, the first round's end at which 100 are stored"
    assert second.gradient_steps == 4 * 32
    assert {*STATISTICS, "epsilon", "lr", "episodes", "return_mean", "length_mean"} <= set(second.metrics)
    assert all(math.isfinite(value) for value in second.metrics.values())


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_learns_to_tell_what_it_sees(switch: str, tmp_path: Path) -> None:
    """An episode of 20 steps is worth 20 to who answers with the number seen, 6.7 to chance."""
    dqn = make(tmp_path, *SWITCHES[switch], env=MATCH, steps=2048)
    for iteration in range(dqn.iterations):
        dqn.iterate(iteration)
    assert (dqn.act_deterministic(np.eye(3, dtype=np.float32)) == np.arange(3)).all()


@pytest.mark.parametrize("n_steps", [1, 3])
def test_what_a_time_limit_cuts_off_keeps_its_value(n_steps: int, tmp_path: Path) -> None:
    """1 a step for ever at γ = 0.9 is worth 10, though episodes are cut after 4 steps; without a bootstrap there the
    value would be 5.4 or less."""
    dqn = make(tmp_path, f"algorithm.n_steps={n_steps}", env=CONSTANT, steps=5120)
    for iteration in range(dqn.iterations):
        metrics = dqn.iterate(iteration).metrics
    assert metrics["q_mean"] == pytest.approx(10.0, abs=0.5)
    assert metrics["length_mean"] == 4.0


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_it_learns_in_half_precision_too(kind: str, tmp_path: Path) -> None:
    dqn = make(tmp_path, f"precision.kind={kind}", env=MATCH, steps=2048)
    for iteration in range(dqn.iterations):
        dqn.iterate(iteration)
    assert (dqn.act_deterministic(np.eye(3, dtype=np.float32)) == np.arange(3)).all()
    assert dqn.learner.step.arena.parameters.dtype == torch.float32


@pytest.mark.parametrize("switch", ["plain", "all"])
@pytest.mark.slow
def test_compiled_is_eager(switch: str, tmp_path: Path) -> None:
    need(which("g++"), "a C++ compiler")
    parameters = []
    for mode in ("off", "on"):
        dqn = make(tmp_path, *SWITCHES[switch], f"compile.mode={mode}")
        assert (dqn.compiled is not None) == (mode == "on"), dqn.learner.compile_reason
        assert dqn.iterate(0).gradient_steps == 80
        parameters.append(dqn.learner.step.arena.parameters)
    start = make(tmp_path, *SWITCHES[switch]).learner.step.arena.parameters
    moved = (parameters[0] - start).norm()
    assert (parameters[0] - parameters[1]).norm() < 1e-4 * moved


def test_rewards_that_are_no_numbers_end_the_run(tmp_path: Path) -> None:
    dqn = make(tmp_path, "env.kwargs.how=nan-reward", "env.kwargs.rank=0", env="tests.environments:Broken-v0")
    with pytest.raises(EnvironmentFault, match="environment 0 gave nan as its reward in its step 10"):
        for iteration in range(3):
            dqn.iterate(iteration)


def test_a_resumed_run_goes_on_counting_and_fills_its_replay_first(tmp_path: Path) -> None:
    dqn = make(tmp_path)
    for iteration in range(3):
        dqn.iterate(iteration)
    state, own = dqn.state(), dqn.local_state()
    other = make(tmp_path, "seed=5")
    other.load_state(state)
    assert torch.equal(other.learner.step.arena.parameters, dqn.learner.step.arena.parameters)
    assert torch.equal(other.target_parameters, dqn.target_parameters)
    assert (other.iteration, other.updates) == (3, dqn.updates) and not other.can_learn
    assert other.iterate(3).gradient_steps == 80, "not before 100 steps are stored anew"
    third = make(tmp_path)
    third.load_state(state)
    third.load_local_state(own)
    assert third.can_learn and third.iterate(3).gradient_steps == 128
    assert third.updates == dqn.updates + 128


REFUSED = {
    "algorithm.train_freq=3": "algorithm.train_freq must be a multiple of env.count = 2, got 3",
    "algorithm.batch_size=4000": "algorithm.batch_size must be at most what is stored, algorithm.buffer_size = 2000",
    "algorithm.learning_starts=4000": "algorithm.learning_starts must be at most algorithm.buffer_size = 2000",
    "env.count=3 algorithm.train_freq=9 algorithm.batch_size=1999": (
        "algorithm.batch_size must be at most what is stored, algorithm.buffer_size = 2000 in equal parts of "
        "env.count = 3: 1998, got 1999"
    ),
    "run.steps=900 algorithm.learning_starts=800": (
        "algorithm.learning_starts must be below the 768 environment steps that run.steps = 900 comes to, or nothing "
        "is learned; got 800"
    ),
    "run.steps=1024 algorithm.batch_size=1024": "algorithm.batch_size must be below the 1024 environment steps that",
    "run.steps=1024 algorithm.n_steps=300": "algorithm.n_steps must be at most 256, or run.steps = 1024 is over before",
    "algorithm.n_steps=600": "algorithm.buffer_size must be at least 2 * n_steps * env.count = 2400, got 2000",
    "optimizer.schedule=kl_adaptive": "optimizer.schedule = 'kl_adaptive' steers steps by their KL divergence",
    "algorithm.quantiles=-1": "algorithm.quantiles must be >= 0, got -1",
    "algorithm.buffer_size=100000000000": "algorithm.buffer_size = 100,000,000,000 takes",
    "run.steps=4": "run.steps must be at least one round, algorithm.train_freq = 8, got 4",
    "env.id=Pendulum-v1": "env.id = 'Pendulum-v1' has Box(-2.0, 2.0, (1,), float32) actions; with dqn they must be Dis",
    "env.normalize_observations=true": "env.normalize_observations must be false with dqn",
    "network.class=torch.nn:Identity": "network.class = 'torch.nn:Identity': forward must take observations (1, 4)",
}


@pytest.mark.parametrize("override", REFUSED)
def test_settings_that_do_not_fit_are_refused_in_one_line(override: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        make(tmp_path, *override.split())
    assert str(refused.value).startswith(REFUSED[override]) and "\n" not in str(refused.value)


@pytest.mark.parametrize("needed", ["learning_starts", "batch_size", "n_steps"])
def test_the_shortest_run_that_is_not_refused_learns(needed: str, tmp_path: Path) -> None:
    longest = {"learning_starts": 767, "batch_size": 767, "n_steps": 192}[needed]
    dqn = make(tmp_path, f"algorithm.{needed}={longest}", "algorithm.gradient_steps=1", steps=768)
    assert sum(dqn.iterate(iteration).gradient_steps for iteration in range(dqn.iterations)) == 1
    with pytest.raises(BadInput, match=f"algorithm.{needed} must be .*got {longest + 1}"):
        make(tmp_path, f"algorithm.{needed}={longest + 1}", steps=768)


def test_a_replay_leaves_a_margin_of_the_memory_that_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 of two on one host, of which the other sees a little less that is free."""
    config, gathered = make(tmp_path).config, []

    class First(Alone):
        rank, size = 0, 2

        def gather_objects(self, value: Any) -> list[Any]:
            gathered.append(value)
            host, free, part = value
            return [value, (host, free - 1000, part), ("elsewhere", 2**40, part)]

    def needs(free: int) -> int:
        monkeypatch.setattr("harness.buffers.replay_memory.free_memory", lambda: free)
        DQN.check_ranks(config, First())
        return 2 * gathered[-1][2]

    together = needs(2**40)
    assert together == dqn_bytes(transitions=2000)
    needs(math.ceil(together / 0.9) + 1000)
    with pytest.raises(BadInput, match=r"2,000 takes .* of free memory: it may be at most about 1,9\d\d$"):
        needs(math.floor(together / 0.9) + 900)


def dqn_bytes(transitions: int) -> int:
    """Of two environments: frames of 4 numbers with their margin; action, reward, end and place of a transition."""
    each = transitions // 2
    return 2 * ((each + each // 32 + 8) * 16 + each * (8 + 4 + 1 + 8))


def test_a_network_of_the_users_own_gives_the_values(tmp_path: Path) -> None:
    dqn = make(tmp_path, "network.class=tests.harness.algorithms.test_dqn:Linear", "algorithm.quantiles=5")
    dqn.iterate(0)
    assert dqn.module(torch.zeros(7, 4)).shape == (7, 2, 5)
    with pytest.raises(BadInput, match="algorithm.dueling must be false with network.class"):
        make(tmp_path, "network.class=tests.harness.algorithms.test_dqn:Linear", "algorithm.dueling=true")


class Linear(torch.nn.Linear):
    def __init__(self, observation_space: object, outputs: int) -> None:
        super().__init__(4, outputs)
