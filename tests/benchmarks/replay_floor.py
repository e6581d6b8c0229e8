"""The matrix products that an update of DQN or SAC cannot do without, and how many environment steps a second a run
would make that did nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from harness.algorithms.settings.off_policy import OffPolicySettings, SACSettings
from harness.bench.floor import median_of_blocks
from harness.config import load_run_config
from harness.files import write_json
from harness.schema import RunConfig

Sizes = tuple[int, int, int]
"""Of one product: (m, k) times (k, n)."""
AT_ONCE = 2048
"""Rows of a product from which more of them cost as much each."""
LEAST = 2**16
"""Multiplications of a product; what is smaller is left out, so that the floor is one."""


def products(config: RunConfig) -> Iterator[tuple[Sizes, float]]:
    """Those of one update; and the part of it that is this update's, where one serves several."""
    settings = config.algorithm
    assert isinstance(settings, OffPolicySettings)
    for sizes in own_products(config):
        yield sizes, 1.0
    if isinstance(settings, SACSettings):
        return
    # the target network stays as it is in a round's updates
    together = max(1, min(settings.gradient_steps, AT_ONCE // settings.batch_size))
    for sizes in forward(together * settings.batch_size, widths_of_values(config)):
        yield sizes, 1.0 / together


def own_products(config: RunConfig) -> Iterator[Sizes]:
    settings, env = config.algorithm, config.env
    assert isinstance(settings, OffPolicySettings) and env is not None
    with gym.make(env.id) as made:
        inputs = int(np.prod(made.observation_space.shape or ()))
        space = made.action_space
    rows, hidden = settings.batch_size, config.network.hidden
    if isinstance(settings, SACSettings):
        actions = int(np.prod(space.shape or ()))
        actor = [inputs, *hidden, actions if settings.gsde else 2 * actions]
        critic = [inputs + actions, *hidden, 1]
        for _ in range(2):  # of the actor: the next actions; then those that it learns from
            yield from forward(rows, actor)
        for _ in range(6):  # of two critics: the targets, the values of what was done, those of what the actor would do
            yield from forward(rows, critic)
        for _ in range(2):
            yield from to_weights(rows, critic)
            yield from to_inputs(rows, critic[1:])
            yield from to_inputs(rows, critic)  # down to the actions
        yield from to_weights(rows, actor)
        yield from to_inputs(rows, actor[1:])
        return
    network = widths_of_values(config)
    yield from forward(rows, network)
    yield from to_weights(rows, network)
    yield from to_inputs(rows, network[1:])


def widths_of_values(config: RunConfig) -> list[int]:
    """Of DQN's network, from observations to values."""
    assert config.env is not None
    with gym.make(config.env.id) as made:
        assert isinstance(made.action_space, gym.spaces.Discrete)
        return [int(np.prod(made.observation_space.shape or ())), *config.network.hidden, int(made.action_space.n)]


def forward(rows: int, widths: list[int]) -> Iterator[Sizes]:
    return ((rows, before, after) for before, after in pairwise(widths))


def to_weights(rows: int, widths: list[int]) -> Iterator[Sizes]:
    return ((before, rows, after) for before, after in pairwise(widths))


def to_inputs(rows: int, widths: list[int]) -> Iterator[Sizes]:
    return ((rows, after, before) for before, after in pairwise(widths))


def seconds_of(sizes: Sizes, seconds: float) -> float:
    """By torch's own choice or by oneDNN, whichever is quicker."""
    m, k, n = sizes
    left, right, transposed = torch.randn(m, k), torch.randn(k, n), torch.randn(n, k)
    ways = [median_of_blocks(lambda: torch.mm(left, right), seconds)]
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if linear is not None and torch.backends.mkldnn.is_available():
        ways.append(median_of_blocks(lambda: linear(left, transposed, None, "none", [], ""), seconds))
    return min(ways)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", help="a preset of this project")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to measure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True, help="where rank 0 writes its figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = load_run_config(args.preset, args.overrides)
    settings = config.algorithm
    assert isinstance(settings, OffPolicySettings)
    large = [(sizes, part) for sizes, part in products(config) if np.prod(sizes) >= LEAST]
    different = sorted({sizes for sizes, _ in large})
    with torch.no_grad():
        cost = {sizes: seconds_of(sizes, args.seconds / len(different) / 2) for sizes in different}
    update = sum(part * cost[sizes] for sizes, part in large)
    write_json(args.json, {"env_steps_per_second": settings.train_freq / settings.gradient_steps / update})


if __name__ == "__main__":
    main()
