"""Whole episodes of a policy in environments of their own, shared out over the ranks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.distributed.collectives import Collectives
from harness.envs.making import make_environment
from harness.envs.settings import LIFE_LOST, EnvSettings

AT_ONCE = 16
"""Episodes that a rank plays side by side, so that the policy acts for several in one call."""


def episode_seeds(seed: int, purpose: str, episodes: int) -> list[int]:
    """Seeds that follow from the run's seed, the purpose and the episode's number; training's follow from other
    numbers."""
    purposes = {"evaluation": 0xE7A1, "final": 0xF17A1, "command": 0xC0DE}
    return [int(each) for each in np.random.SeedSequence([seed, purposes[purpose]]).generate_state(episodes, np.uint32)]


def play_episodes(
    settings: EnvSettings,
    act: Callable[[np.ndarray], np.ndarray],
    seeds: list[int],
    collectives: Collectives,
) -> np.ndarray:
    """Float64 (episodes,): true returns, in the order of `seeds`, equal on all ranks.

    `act` takes observations (n, *obs_shape) and gives actions for them, n from 1 to `AT_ONCE`.
    """
    mine = list(range(collectives.rank, len(seeds), collectives.size))
    returns: dict[int, float] = {}
    envs = [make_environment(settings) for _ in range(min(AT_ONCE, len(mine)))]
    try:
        waiting = iter(mine)
        playing: list[tuple[int, int]] = []  # (which environment, which episode)
        observations: list[np.ndarray] = []
        totals: list[float] = []

        def begin(env: int, at: int | None = None) -> bool:
            episode = next(waiting, None)
            if episode is None:
                return False
            observation, _ = envs[env].reset(seed=seeds[episode])
            if at is None:
                playing.append((env, episode))
                observations.append(observation)
                totals.append(0.0)
            else:
                playing[at], observations[at], totals[at] = (env, episode), observation, 0.0
            return True

        for env in range(len(envs)):
            begin(env)
        while playing:
            actions = act(np.stack(observations))
            ended = []
            for at, (env, episode) in enumerate(playing):
                observations[at], reward, terminated, truncated, info = envs[env].step(actions[at])
                totals[at] += float(reward)
                if LIFE_LOST in info:
                    observations[at], _ = envs[env].reset()
                elif terminated or truncated:
                    returns[episode] = totals[at]
                    if not begin(env, at):
                        ended.append(at)
            for at in reversed(ended):
                del playing[at], observations[at], totals[at]
    finally:
        for made in envs:
            made.close()
    merged: dict[int, float] = {}
    for part in collectives.gather_objects(returns):
        merged.update(part)
    return np.array([merged[episode] for episode in range(len(seeds))])
