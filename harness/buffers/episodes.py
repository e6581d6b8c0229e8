"""The account of a rank's episodes, which begin and end anywhere in its rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.envs.backends.base import StepResult

PARTS = ("sum", "count")


class EpisodeAccount:
    """Returns and lengths of the episodes that end, whatever rollouts they lie in, and what their last infos tell."""

    def __init__(self, envs: int, metrics: Sequence[str] = ()) -> None:
        """`metrics`: `env.info_metrics`."""
        self.metrics = tuple(metrics)
        self.infos = np.zeros((2, len(self.metrics)))
        """Of each of them the sum over the episodes that ended since `merge`, and how many had it."""
        self.returns = np.zeros(envs)
        """Float64 (envs,): of the episodes that still run."""
        self.lengths = np.zeros(envs, dtype=np.int64)

    def state(self) -> dict[str, np.ndarray]:
        return {"returns": self.returns.copy(), "lengths": self.lengths.copy()}

    def load_state(self, state: dict[str, np.ndarray], goes_on: np.ndarray) -> None:
        """Takes up the episodes of the environments that go on, bool (envs,)."""
        self.returns = np.where(goes_on, state["returns"], 0.0)
        self.lengths = np.where(goes_on, state["lengths"], 0)

    def note(self, result: StepResult) -> None:
        """Takes the metrics of the episodes that ended in a step; `result.info_metrics` is there."""
        ended = result.terminated | result.truncated
        if result.lives_lost is not None:
            ended = ended & ~result.lives_lost
        assert result.info_metrics is not None
        values = result.info_metrics[ended]
        there = ~np.isnan(values)
        self.infos += np.where(there, values, 0.0).sum(0), there.sum(0)

    def restart_episodes(self, goes_on: np.ndarray) -> None:
        """The episodes of the environments that do not go on, bool (envs,), are forgotten."""
        self.load_state(self.state(), goes_on)

    def merge(self, rewards: np.ndarray, dones: np.ndarray, lives: Sequence[tuple[int, int]] = ()) -> dict[str, float]:
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
        counted = {"episodes": float(len(ends)), "returns": float(returns.sum()), "lengths": float(lengths.sum())}
        infos = {f"info.{name}": self.infos[:, place].tolist() for place, name in enumerate(self.metrics)}
        self.infos = np.zeros_like(self.infos)
        return counted | {f"{name}.{part}": value for name, both in infos.items() for part, value in zip(PARTS, both)}

    def means(self, agreed: Mapping[str, float]) -> dict[str, float]:
        """The metrics that follow from what the ranks agreed of `merge`; none where no episode ended."""
        count = agreed["episodes"]
        if not count:
            return {}
        means = {"episodes": count, "return_mean": agreed["returns"] / count, "length_mean": agreed["lengths"] / count}
        for name in self.metrics:
            total, had = (agreed[f"info.{name}.{part}"] for part in PARTS)
            if had:
                means[f"{name}_mean"] = total / had
        return means
