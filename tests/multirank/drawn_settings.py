"""A rank that trains what a small generator draws, beside the other ranks and alone, and gives how far apart they are.

For CASES drawn settings (environment, algorithm, network) it makes three iterations, or one of several updates, twice:
as one rank with a communicator of one. Each rank makes the reference of every so many cases.
"""

from __future__ import annotations

import random
import sys
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from harness.algorithms import Algorithm, Context, algorithm_class
from harness.config import resolve
from harness.distributed.transports.base import Alone, Communicator
from harness.envs import check_environment, make_environments
from harness.envs.backends.selection import check_backend
from harness.envs.vectors import share_of
from harness.errors import BadInput
from harness.reporting import PhaseTimer
from harness.schema import RunConfig
from harness.training.batchnorm import agree_on_buffers
from tests.multirank.launch import give, join

CASES, ITERATIONS = 40, 3
LINE, MATCH, BYTES, COUNT = (f"tests.environments:{name}-v0" for name in ("Line", "Match", "Bytes", "Count"))
DISCRETE = ("CartPole-v1", "Acrobot-v1", LINE, MATCH, BYTES, COUNT)
NUMBERS = ("Pendulum-v1", "MountainCarContinuous-v0")
ON_POLICY, OFF_POLICY = ("ppo", "a2c"), ("dqn", "sac", "td3")


@dataclass(frozen=True)
class Case:
    """What became of a case: a refusal on all ranks, or how far apart parameters and metrics were."""

    settings: str
    refused: tuple[str | None, str | None]
    """By the ranks together, and by one alone."""
    distance: float = 0.0
    """Of the parameters, relative to their norm."""
    metrics: tuple[dict[str, float], dict[str, float]] = ({}, {})


def draw(number: int) -> dict[str, Any]:
    """The table of case `number`."""
    dice = random.Random(number)
    name = dice.choice((*ON_POLICY, *ON_POLICY, *OFF_POLICY))
    count = dice.choice((2, 3, 4, 5, 8))
    continuous = name in ("sac", "td3") or name in ON_POLICY and dice.random() < 0.4
    env: dict[str, Any] = {"id": dice.choice(NUMBERS if continuous else DISCRETE), "count": count}
    env["backend"] = dice.choice(("auto", "auto", "sync"))
    algorithm: dict[str, Any] = {"name": name, "gamma": dice.choice((0.9, 0.99))}
    network: dict[str, Any] = {
        "hidden": dice.choice(([16], [16, 16], [24, 8])),
        "activation": dice.choice(("tanh", "relu", "elu", "silu")),
    }
    optimizer: dict[str, Any] = {"name": dice.choice(("adam", "rmsprop", "sgd")), "lr": 1e-3}
    if name in ON_POLICY:
        env["normalize_observations"], env["normalize_rewards"] = dice.random() < 0.3, dice.random() < 0.3
        steps = algorithm["rollout_steps"] = dice.choice((4, 5, 16))
        algorithm["entropy_coefficient"] = dice.choice((0.0, 0.01))
        algorithm["max_grad_norm"] = dice.choice((0.5, 10.0))
        algorithm["normalize_advantages"] = dice.random() < 0.6
        if continuous:
            algorithm["squash"], algorithm["gsde"] = dice.random() < 0.3, dice.random() < 0.3
        elif dice.random() < 0.3 and env["id"] == "CartPole-v1":
            network["class"] = "tests.networks:WithDropout"
        if name == "ppo":
            small = dice.random() < 0.4
            steps = algorithm["rollout_steps"] = min(steps, 5) if small else steps
            algorithm["minibatch_size"] = dice.choice((1, 3) if small else (16, steps * count))
            algorithm["epochs"] = dice.choice((1, 2))
            algorithm["target_kl"] = dice.choice((None, 0.02))
            optimizer["schedule"] = dice.choice(("constant", "linear", "kl_adaptive"))
    else:
        algorithm |= {"buffer_size": dice.choice((200, 1000)), "learning_starts": dice.choice((0, 16, 40))}
        algorithm |= {"batch_size": dice.choice((8, 15, 32)), "gradient_steps": dice.choice((1, 3))}
        algorithm["train_freq"] = count * dice.choice((1, 2, 4))
        if name == "dqn":
            for switch in ("double", "dueling", "prioritized"):
                algorithm[switch] = dice.random() < 0.5
            algorithm |= {"n_steps": dice.choice((1, 3)), "quantiles": dice.choice((0, 0, 5))}
        if name == "sac":
            algorithm["gsde"] = dice.random() < 0.4
    table = {
        "seed": number,
        "run": {"steps": 2_000 if name in ON_POLICY else 96},
        "env": env,
        "algorithm": {key: value for key, value in algorithm.items() if value is not None},
        "network": network,
        "optimizer": optimizer,
        "compile": {"mode": "off"},
    }
    return table


def make(config: RunConfig, communicator: Communicator) -> Algorithm:
    """As a run does it; BadInput where the run is refused."""
    assert config.env is not None
    kind = algorithm_class(config.algorithm.name)
    share_of(config.env.count, 0, communicator.size)
    kind.check(config, *check_environment(config.env))
    check_backend(config.env)
    kind.check_ranks(config, communicator)
    gamma = float(getattr(config.algorithm, "gamma", 0.99))
    envs = make_environments(config.env, communicator.rank, communicator.size, gamma)
    nothing = lambda act, episodes, final: np.zeros(episodes)  # noqa: E731
    return kind(Context(config, communicator, torch.device("cpu"), PhaseTimer(), envs, nothing))


def train(table: dict[str, Any], communicator: Communicator) -> tuple[torch.Tensor, dict[str, float]] | str:
    """All parameters after three iterations and the last one's metrics; the line that refuses it."""
    try:
        algorithm = make(resolve(table), communicator)
    except BadInput as error:
        return str(error)
    try:
        for iteration in range(min(ITERATIONS, algorithm.iterations)):
            metrics = algorithm.iterate(iteration).metrics
            for module in algorithm.restless:
                agree_on_buffers(module, communicator, samples=1)
    finally:
        algorithm.close()
    return torch.nn.utils.parameters_to_vector(algorithm.module.parameters()).detach().double(), metrics


def compare(number: int, communicator: Communicator) -> Case:
    table = draw(number)
    env, algorithm = table["env"], table["algorithm"]
    settings = f"case {number}: {env}, {algorithm}, {table['network']}, {table['optimizer']}"
    together = train(table, communicator)
    reference: Any = None
    if communicator.rank == number % communicator.size:
        reference = train(table, Alone())
    alone = communicator.broadcast_object(reference, number % communicator.size)
    if isinstance(together, str) or isinstance(alone, str):
        refused = tuple(each if isinstance(each, str) else None for each in (together, alone))
        return Case(settings, refused)  # type: ignore[arg-type]
    distance = float((together[0] - alone[0]).norm() / alone[0].norm().clamp(min=1e-12))
    return Case(settings, (None, None), distance, (together[1], alone[1]))


if __name__ == "__main__":
    world, shared = join()
    chosen = [int(word) for word in sys.argv[1:]] or range(CASES)
    give([asdict(compare(number, shared)) for number in chosen])
    world.stop()
