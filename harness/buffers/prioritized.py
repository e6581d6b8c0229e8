"""Prioritized experience replay (Schaul et al. 2016, https://arxiv.org/abs/1511.05952), its proportional variant.

A minibatch takes the same number of transitions from each environment, whatever rank it is on, so that P(i) of the
paper's equation 1 is p_i^α over the sum of its own environment, divided by the number of environments: what is drawn,
and its importance weight, follow from that environment alone and are the same on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.buffers.replay import Replay
from harness.envs.backends.base import StepResult

SMALLEST = 1e-6
"""ε of section 3.3: what is added to every error, so that no transition is never seen again."""


class SumTree:
    """For each of `trees` sequences of numbers >= 0: which of them a fraction of their sum falls upon.

    Nodes have 16 children rather than the paper's two, so that numpy walks down a few levels of many nodes at once.
    Sums are made anew from their children, never adjusted, so that rounding does not add up.
    """

    FAN = 16

    def __init__(self, trees: int, size: int) -> None:
        below = 1
        while below * self.FAN < size:
            below *= self.FAN
        top = -(-size // below)
        self.width = top * below
        """Leaves of a tree: tree t's begin at t * width."""
        self.fans = [top]
        """How many nodes of each level are one of the next."""
        while below > 1:
            self.fans.insert(0, self.FAN)
            below //= self.FAN
        self.levels = [np.zeros(trees * self.width)]
        """float64 (trees * nodes,) each: the leaves first, the sums of whole trees last."""
        for fan in self.fans:
            self.levels.append(np.zeros(len(self.levels[-1]) // fan))
        self.changed: list[np.ndarray] = []

    @property
    def leaves(self) -> np.ndarray:
        return self.levels[0]

    def set(self, leaves: np.ndarray, values: np.ndarray | float) -> None:
        self.levels[0][leaves] = values
        self.changed.append(leaves)

    def sums(self) -> np.ndarray:
        """float64 (trees,): of all that was set."""
        if self.changed:
            nodes = np.concatenate(self.changed)
            self.changed = []
            for fan, below, level in zip(self.fans, self.levels, self.levels[1:]):
                nodes = np.unique(nodes // fan)
                level[nodes] = below.reshape(-1, fan)[nodes].sum(1)
        return self.levels[-1]

    def find(self, trees: np.ndarray, fractions: np.ndarray) -> np.ndarray:
        """The leaves (n,) that `fractions` (n,), in [0, 1), of the sums of `trees` (n,) fall upon; none that is 0."""
        rest = fractions * self.sums()[trees]
        nodes = trees
        for fan, level in zip(reversed(self.fans), reversed(self.levels[:-1])):
            up_to = np.cumsum(level.reshape(-1, fan)[nodes], axis=1)
            whole = up_to[:, -1:]
            # rounding may leave a rest as large as the whole: then it is the last child that is not 0
            child = np.minimum((up_to <= rest[:, None]).sum(1), (up_to < whole).sum(1))
            before = np.where(child > 0, up_to[np.arange(len(child)), child - 1], 0.0)
            rest = rest - before
            nodes = nodes * fan + child
        return nodes


class PrioritizedReplay(Replay):
    """A replay whose transitions are drawn in proportion to the α-th power of their last errors; new ones, which have
    none yet, in proportion to the largest there was in their environment (algorithm 1, line 6)."""

    def __init__(self, *args: Any, alpha: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.alpha = alpha
        self.tree = SumTree(self.envs, self.capacity)
        self.highest = np.ones(self.envs)
        """float64 (envs,): the largest p^α there was."""

    def add(self, actions: np.ndarray, result: StepResult) -> None:
        every = self.every if result.valid is None else np.flatnonzero(result.valid)
        self.tree.set(self.leaves(every, self.count[every]), 0.0)  # where the oldest was
        super().add(actions, result)
        ready = self.count - self.n_steps  # what its last reward has come to
        every = every[ready[every] >= 0]
        self.tree.set(self.leaves(every, ready[every]), self.highest[every])

    def leaves(self, env: np.ndarray, number: np.ndarray) -> np.ndarray:
        return env * self.tree.width + number % self.capacity

    def window(self) -> tuple[np.ndarray, np.ndarray]:
        before = np.maximum(self.first, self.count - self.capacity)
        first, sizes = super().window()
        for env in np.flatnonzero(first > before):  # given up before their places were needed
            gone = np.arange(before[env], first[env])
            self.tree.set(self.leaves(np.full(len(gone), env), gone), 0.0)
        return first, sizes

    def sample(self, env: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """As for a `Replay`, in proportion to the priorities."""
        first, _ = self.window()
        at = self.tree.find(env, draws) - env * self.tree.width
        return first[env] + (at - first[env]) % self.capacity

    def weights(self, env: np.ndarray, number: np.ndarray, beta: float) -> np.ndarray:
        """float64 (n,): (N P(i))^-β of section 3.4, before they are divided by the largest of the minibatch."""
        _, sizes = self.window()
        priorities = self.tree.leaves[self.leaves(env, number)]
        return (sizes[env] * priorities / self.tree.sums()[env]) ** -beta

    def update(self, env: np.ndarray, number: np.ndarray, errors: np.ndarray) -> None:
        """Takes in the errors (n,) that these transitions have now."""
        priorities = (np.abs(errors.astype(np.float64)) + SMALLEST) ** self.alpha
        self.tree.set(self.leaves(env, number), priorities)
        np.maximum.at(self.highest, env, priorities)

    def state(self) -> dict[str, Any]:
        priorities = self.tree.leaves.reshape(self.envs, -1).copy()
        return {**super().state(), "priorities": priorities, "highest": self.highest.copy()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self.tree.set(np.arange(len(self.tree.leaves)), np.asarray(state["priorities"]).reshape(-1))
        self.highest[...] = state["highest"]
