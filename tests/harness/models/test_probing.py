"""A network of the user's is looked at without a trace, and what is inert in it is told."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from harness.algorithms import Algorithm, Context, algorithm_class
from harness.config import resolve
from harness.distributed.transports.base import Alone
from harness.envs import make_environments
from harness.errors import BadInput
from harness.models.probing import inert_layers, probe, refuse_batch_statistics
from harness.reporting import PhaseTimer

CPU = torch.device("cpu")


class Normed(nn.Module):
    """A user's policy with layers that only training mode moves."""

    def __init__(self, space: gym.spaces.Box, outputs: int, stats: bool = True, dropout: float = 0.5) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4, track_running_stats=stats)
        self.trunk = nn.Sequential(nn.Linear(4, 8), nn.Dropout(dropout))
        self.policy, self.value = nn.Linear(8, outputs), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> Any:
        features = self.trunk(self.norm(x))
        return self.policy(features), self.value(features).squeeze(-1)


class NormedValues(Normed):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x)[0]


class Counting(Normed):
    """Changes buffers in `forward`: one where it lies, one by another tensor."""

    def __init__(self, space: gym.spaces.Box, outputs: int) -> None:
        super().__init__(space, outputs, dropout=0.0)
        self.norm = nn.Identity()  # type: ignore[assignment]
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("constant", torch.ones(4))
        self.notes: list[int] = []

    def forward(self, x: torch.Tensor) -> Any:
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        self.notes.append(len(x))
        return super().forward(x - self.mean)


def make(name: str, network: str, **settings: Any) -> Algorithm:
    algorithm = {"name": name, **settings}
    if name in ("ppo", "a2c"):
        algorithm["rollout_steps"] = 8
    if name == "ppo":
        algorithm.setdefault("minibatch_size", 16)
    if name == "dqn":
        algorithm |= {"buffer_size": 500, "learning_starts": 16, "batch_size": 8, "train_freq": 4}
    table = {
        "run": {"steps": 2048},
        "env": {"id": "CartPole-v1", "count": 4},
        "algorithm": algorithm,
        "network": {"class": f"tests.harness.models.test_probing:{network}"},
        "compile": {"mode": "off"},
    }
    config = resolve(table)
    assert config.env is not None
    envs = make_environments(config.env, 0, 1)
    nothing = lambda act, episodes, final: np.zeros(episodes)  # noqa: E731
    return algorithm_class(name)(Context(config, Alone(), CPU, PhaseTimer(), envs, nothing))


def test_a_probe_leaves_no_trace() -> None:
    network = Counting(gym.spaces.Box(-1, 1, (4,)), 2)
    network.trunk.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(3)
    drawn = torch.rand(3)
    torch.manual_seed(3)
    probed = probe(network, torch.ones(1, 4))
    assert torch.equal(torch.rand(3), drawn), "the process's random numbers"
    assert [tuple(each.shape) for each in probed.outputs] == [(1, 2), (1,)]
    assert probed.changed == ("calls", "mean") and network.notes == []
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training and not network.trunk.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_lazy_parameters_come_to_be_and_buffers_stay_all_the_same() -> None:
    network = Counting(gym.spaces.Box(-1, 1, (4,)), 2)
    network.trunk = nn.Sequential(nn.LazyLinear(8))
    probe(network, torch.ones(1, 4))
    assert network.trunk[0].weight.shape == (8, 4) and int(network.calls) == 0 and not network.mean.any()


@pytest.mark.parametrize("name,network", [("ppo", "Normed"), ("a2c", "Normed"), ("dqn", "NormedValues")])
def test_batchnorm_and_dropout_are_taken_and_told(name: str, network: str) -> None:
    algorithm = make(name, network)
    (notice,) = [line for line in algorithm.notices() if "network.class" in line]
    assert f"{name} keeps networks in evaluation mode" in notice and "norm (BatchNorm1d), trunk.1 (Dropout)" in notice
    algorithm.iterate(0)
    buffers = {key: value for key, value in algorithm.module.state_dict().items() if key.endswith("running_mean")}
    assert buffers and not any(value.any() for value in buffers.values()), "neither the probe nor learning moves them"
    algorithm.close()


def test_buffers_that_change_are_told_and_nothing_is_compiled() -> None:
    algorithm = make("ppo", "Counting")
    (notice,) = [line for line in algorithm.notices() if "network.class changes" in line and "eager" not in line]
    assert "(calls, mean)" in notice and algorithm.restless == [algorithm.module]
    algorithm.close()


def test_a_policy_that_depends_on_its_batch_is_refused() -> None:
    with pytest.raises(BadInput, match="norm must have track_running_stats=True, or be a LayerNorm"):
        refuse_batch_statistics(Normed(gym.spaces.Box(-1, 1, (4,)), 2, stats=False), "network.class = 'x:Y'")


def test_inert_layers_are_found_in_whatever_holds_them() -> None:
    network = nn.ModuleDict(
        {
            "a": nn.TransformerEncoderLayer(8, 2, 8, dropout=0.1),
            "b": nn.Dropout(0.0),
            "c": nn.InstanceNorm1d(3),
            "d": nn.GRU(2, 2, 2, dropout=0.3),
            "e": nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)),
            "f": nn.LayerNorm(3),
        }
    )
    found = " ".join(inert_layers(network))
    assert all(name in found for name in ("a.dropout (Dropout)", "a.self_attn (Multihead", "d (GRU)", "SpectralNorm"))
    assert not any(name in found for name in ("b (", "c (", "f ("))


@pytest.mark.parametrize("head", [{}, {"gsde": True}, {"squash": True}])
@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_an_untouched_policy_has_a_ratio_of_1_in_any_precision(kind: str, head: dict[str, bool]) -> None:
    env = "Pendulum-v1" if head else "CartPole-v1"
    table = {
        "run": {"steps": 256},
        "env": {"id": env, "count": 4},
        "algorithm": {"name": "ppo", "rollout_steps": 16, "minibatch_size": 64, "epochs": 1, **head},
        "optimizer": {"lr": 1e-12},
        "precision": {"kind": kind},
    }
    config = resolve(table)
    assert config.env is not None
    envs = make_environments(config.env, 0, 1)
    nothing = lambda act, episodes, final: np.zeros(episodes)  # noqa: E731
    ppo = algorithm_class("ppo")(Context(config, Alone(), CPU, PhaseTimer(), envs, nothing))
    with torch.no_grad():
        for parameter in ppo.module.parameters():  # as far from zero as a policy that has learned
            parameter.mul_(3.0)
    metrics = ppo.iterate(0).metrics
    rounding = 1e-3 if "gsde" in head else 1e-6  # its head has products of its own, whose sums depend on the batch
    assert metrics["clip_fraction"] == 0 and abs(metrics["kl"]) < rounding and not math.isnan(metrics["loss"])
    ppo.close()


def test_minibatches_of_one_sample_are_learned_from_as_they_are() -> None:
    table = {
        "run": {"steps": 256},
        "env": {"id": "CartPole-v1", "count": 2},
        "algorithm": {"name": "ppo", "rollout_steps": 4, "minibatch_size": 1, "epochs": 1},
    }
    config = resolve(table)
    assert config.env is not None
    envs = make_environments(config.env, 0, 1)
    nothing = lambda act, episodes, final: np.zeros(episodes)  # noqa: E731
    ppo: Any = algorithm_class("ppo")(Context(config, Alone(), CPU, PhaseTimer(), envs, nothing))
    ppo.collector.collect(0)
    parts, counts = ppo.minibatch_plan(0, 0)
    assert set(counts) == {1}
    centres, scales = ppo.advantage_moments([parts])
    assert not centres.any() and (scales == 1).all()
    several = [np.concatenate([parts[0], parts[1]]), parts[2]]
    ppo.minibatches = 2
    centres, scales = ppo.advantage_moments([several])
    advantages = ppo.rollout.advantages.ravel()[several[0]]
    assert centres[0, 0] == pytest.approx(advantages.mean(), rel=1e-5) and centres[0, 1] == 0
    assert scales[0].tolist() == pytest.approx([advantages.std(ddof=1) + 1e-8, 1.0], rel=1e-4)
    ppo.close()
