"""Whether a file decides as the policy does: both act on the same states of real episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from harness.envs.evaluation import episode_seeds
from harness.envs.limits import longest_episode
from harness.envs.players import separate_environments
from harness.errors import BadInput
from harness.policy.policy import Policy

TOLERANCE = 1e-5
"""Of numbers, relative where they are larger than 1; and of what two choices are worth, for a tie."""
AT_ONCE = 8
BATCH = 64

Act = Callable[[np.ndarray, "np.ndarray | None"], np.ndarray]


@dataclass(frozen=True)
class States:
    """Of real episodes, and what the policy's actions there were drawn from."""

    observations: np.ndarray
    """(n, *obs_shape), as they came."""
    noise: np.ndarray | None
    """float32 (n, *noise_shape)"""


@dataclass(frozen=True)
class Parity:
    states: int
    largest_difference: float
    """Of numbers."""
    ties: int
    """States in which two choices were equally good, as far as float32 goes, and another one was taken."""


def visit(policy: Policy, wanted: int) -> States:
    """States of whole episodes: half of them of those that the deterministic policy plays, half of drawn actions."""
    settings, drawn_from = policy.config.env, policy.drawn_from
    assert settings is not None
    halves = (wanted,) if drawn_from is None else (wanted - wanted // 2, wanted // 2)
    seen: list[np.ndarray] = []
    players = separate_environments(settings, None, AT_ONCE)
    try:
        players.max_steps = longest_episode(settings, policy.config.evaluation.max_steps, players.make())
        for number, least in enumerate(halves):
            part: list[np.ndarray] = []

            def act(observations: np.ndarray, drawn: np.ndarray | None, part: list[np.ndarray] = part) -> np.ndarray:
                part += list(observations)
                if len(part) >= least:
                    raise Enough
                return policy.act(observations, drawn)

            seeds = episode_seeds(policy.config.seed + number, "command", least + AT_ONCE)
            try:
                players.play(act, seeds, lambda busy: busy, drawn_from if number else None)
            except Enough:
                pass
            seen += part[:least]
    finally:
        players.close()
    generator = np.random.default_rng(policy.config.seed)
    noise = None if drawn_from is None else np.stack([drawn_from.draw(generator) for _ in seen])
    observations = np.stack(seen).astype(policy.environments.observation_space.dtype, copy=False)
    return States(observations, noise)


class Enough(Exception):
    """States; the episode that is played is not of interest."""


def compare(graph: nn.Module, space: spaces.Space, reference: Act, found: Act, states: States) -> Parity:
    """BadInput where `found` acts differently from `reference`, on its own or in a batch. `graph`: the policy in torch,
    which tells of another choice whether it was as good."""
    largest, ties, observations = 0.0, 0, states.observations
    for noise in (None,) if states.noise is None else (None, states.noise):
        for first in range(0, len(observations), BATCH):
            rows = slice(first, first + BATCH)
            seen, drawn = observations[rows], None if noise is None else noise[rows]
            expected, acted = reference(seen, drawn), found(seen, drawn)
            alone = found(seen[:1], None if drawn is None else drawn[:1])
            for one, other in ((expected, acted), (acted[:1], alone)):
                if one.shape != other.shape or one.dtype != other.dtype:
                    raise BadInput(f"the file gives {other.dtype} {other.shape}, the policy {one.dtype} {one.shape}")
            if space.dtype is not None and space.dtype.kind == "f":
                with np.errstate(invalid="ignore"):
                    distance = np.abs(expected - acted) / np.maximum(1.0, np.abs(expected))
                largest = max(largest, float(np.nan_to_num(distance, nan=np.inf).max()))
                differs = not largest <= TOLERANCE
            else:
                others = np.flatnonzero((expected != acted).reshape(len(seen), -1).any(1))
                as_good = [is_tie(graph, seen[at], None if drawn is None else drawn[at], acted[at]) for at in others]
                differs, ties = not all(as_good), ties + len(others)
            if differs:
                how = "deterministic" if noise is None else "drawn"
                raise BadInput(
                    f"the file acts differently from the policy: {how} actions of {first + BATCH} states of episodes "
                    f"differ (largest difference {largest:.3g}, at most {TOLERANCE:g}); no file was written"
                )
    return Parity(len(observations), largest, ties)


@torch.no_grad()
def is_tie(graph: nn.Module, observation: np.ndarray, drawn: np.ndarray | None, action: np.ndarray) -> bool:
    """Whether another choice is as good as float32 can tell: it would be taken with noise, or with scores, that differ
    by a rounding."""
    seen = torch.from_numpy(observation[None])
    if drawn is not None:
        near = [np.clip(drawn + shift, 1e-7, 1.0) for shift in (-TOLERANCE, TOLERANCE)]
        noises = [torch.from_numpy(each[None].astype(np.float32)) for each in near]
        if any((graph(seen, noise).numpy()[0] == action).all() for noise in noises):
            return True
        if graph.decision.probable():  # type: ignore[operator, union-attr]
            return False
    number = graph.number(torch.from_numpy(np.array(action))[None])  # type: ignore[operator]
    for choice, scores in enumerate(graph.scores(seen)):  # type: ignore[operator]
        gap = scores.max() - scores[0, number[0, choice]]
        if gap > TOLERANCE * max(1.0, float(scores.abs().max())):
            return False
    return True
