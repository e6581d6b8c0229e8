"""The account of a rank's episodes, which begin and end anywhere in its rollouts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class EpisodeAccount:
    """Returns and lengths of the episodes that end, whatever rollouts they lie in."""

    def __init__(self, envs: int) -> None:
        self.returns = np.zeros(envs)
        """Float64 (envs,): of the episodes that still run."""
        self.lengths = np.zeros(envs, dtype=np.int64)

    def state(self) -> dict[str, np.ndarray]:
        return {"returns": self.returns.copy(), "lengths": self.lengths.copy()}

    def load_state(self, state: dict[str, np.ndarray], goes_on: np.ndarray) -> None:
        """Takes up the episodes of the environments that go on, bool (envs,)."""
        self.returns = np.where(goes_on, state["returns"], 0.0)
        self.lengths = np.where(goes_on, state["lengths"], 0)

    def take_in(
        self, rewards: np.ndarray, dones: np.ndarray, lives: Sequence[tuple[int, int]] = ()
    ) -> dict[str, float]:
        """Sums over the episodes that ended in these steps, for the ranks to agree on.

        `rewards`: (steps, envs), as the environment gave them; `dones`: bool (steps, envs). `lives`: (step,
        environment) where only a life was lost, so that the game that is reported goes on.
        """
        if lives:
            dones = dones.copy()
            dones[tuple(np.transpose(lives))] = False
        steps = len(rewards)
        sums = self.returns + np.cumsum(rewards, axis=0, dtype=np.float64)
        ends, env = np.nonzero(dones.T)[::-1]  # each environment's in their order
        first = np.ones(len(env), dtype=bool)
        first[1:] = env[1:] != env[:-1]
        before = np.roll(ends, 1)
        totals = sums[ends, env]
        lengths = np.where(first, self.lengths[env] + ends + 1, ends - before)
        returns = np.where(first, totals, totals - sums[before, env])
        self.returns, self.lengths = sums[-1], self.lengths + steps
        last = np.roll(first, -1)
        self.returns[env[last]] -= totals[last]
        self.lengths[env[last]] = steps - 1 - ends[last]
        non_finite = float((~np.isfinite(sums[-1])).sum())
        counted = {"episodes": float(len(ends)), "returns": float(returns.sum()), "lengths": float(lengths.sum())}
        return {**counted, "non_finite_rewards": non_finite}
