"""A rank's part of one rollout, and its minibatches, which are the same samples on any number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch


class Rollout:
    """Preallocated arrays of `steps` x `envs`; numpy's and torch's sides are the same memory."""

    def __init__(
        self, steps: int, envs: int, observation_shape: tuple[int, ...], observation_dtype: np.dtype, action: np.ndarray
    ) -> None:
        """`action`: an example of one environment's action, for its shape and dtype."""
        self.steps, self.envs = steps, envs
        self.observations = np.zeros((steps, envs, *observation_shape), observation_dtype)
        self.actions = np.zeros((steps, envs, *action.shape), action.dtype)
        self.log_probs = np.zeros((steps, envs), np.float32)
        self.values = np.zeros((steps, envs), np.float32)
        self.rewards = np.zeros((steps, envs), np.float32)
        """Rewards as they are learned from: scaled, and with the value of what a time limit cut off."""
        self.true_rewards = np.zeros((steps, envs), np.float32)
        """Rewards as the environment gave them."""
        self.dones = np.zeros((steps, envs), bool)
        """Where the step ended an episode, by termination or truncation."""
        self.advantages = np.zeros((steps, envs), np.float32)
        self.returns = np.zeros((steps, envs), np.float32)

    def pin(self, names: Sequence[str]) -> None:
        """Puts these arrays into pinned memory, which a GPU can copy from while the host goes on."""
        for name in names:
            setattr(self, name, torch.from_numpy(getattr(self, name)).pin_memory().numpy())

    def compute_advantages(self, bootstrap_value: np.ndarray, gamma: float, gae_lambda: float) -> None:
        """Generalised advantage estimation (Schulman et al. 2016, equation 16) and the returns it implies.

        `bootstrap_value`: float32 (envs,), the value of the observation after the last step. Where a time limit ended
        an episode, its value must be in the rewards already: what follows belongs to another episode.
        """
        goes_on = 1.0 - self.dones.astype(np.float32)
        following = np.concatenate([self.values[1:], bootstrap_value[None]])
        advantages = np.subtract(self.rewards + gamma * following * goes_on, self.values, out=self.advantages)
        decays = (gamma * gae_lambda) * goes_on
        for step in range(self.steps - 2, -1, -1):
            advantages[step] += decays[step] * advantages[step + 1]
        np.add(self.advantages, self.values, out=self.returns)

    def replace(self, skipped: list[tuple[int, int]]) -> None:
        """Puts another of its environment's samples in the place of each (step, environment) that is none, half a
        rollout away so that no part of an episode is favoured. To be called when the advantages are known."""
        none = set(skipped)
        for step, env in skipped:
            others = ((step + self.steps // 2 + more) % self.steps for more in range(self.steps))
            other = next((each for each in others if (each, env) not in none), None)
            if other is None:  # the whole rollout has none of this environment
                self.advantages[step, env], self.returns[step, env] = 0.0, self.values[step, env]
                continue
            for array in (self.observations, self.actions, self.log_probs, self.values, self.advantages, self.returns):
                array[step, env] = array[other, env]

    def flat(self, name: str) -> torch.Tensor:
        """The array `name` as a tensor (envs * steps, …) over the same memory, sample index = step * envs + env."""
        array = getattr(self, name)
        return torch.from_numpy(array.reshape(self.steps * self.envs, *array.shape[2:]))


@lru_cache
def deal(envs: int, steps: int, minibatches: int) -> tuple[np.ndarray, np.ndarray]:
    """How many steps of each environment's order have been dealt before each minibatch, and after the last: int64
    (minibatches + 1, envs); and the samples of each minibatch, int64 (minibatches,)."""
    phases = np.arange(envs) * minibatches // envs
    edges = (np.arange(minibatches + 1)[:, None] * steps + phases) // minibatches
    edges[0] = 0
    return edges, np.diff(edges, axis=0).sum(1)


def minibatch_indices(
    keys: np.ndarray, first_env: int, envs: int, minibatches: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """This rank's samples in each minibatch, and how many samples each minibatch has over all ranks.

    `keys`: float (total_envs, steps), the same random numbers on all ranks. Each environment's steps are put in the
    random order of its own row and dealt to the minibatches in equal shares, so that a minibatch holds the same samples
    on any number of ranks, and each rank gives the same fraction of its samples to each. Where `minibatches` does not
    divide `steps`, environments start dealing at different places, so that the minibatches still come out even.

    Returns ([int64 (n,)] * minibatches, int64 (minibatches,)); an index is step * envs + local environment.
    """
    edges, counts = deal(*keys.shape, minibatches)
    own = slice(first_env, first_env + envs)
    orders = np.argsort(keys[own], axis=1)
    parts = []
    for batch in range(minibatches):
        low, high = edges[batch, own], edges[batch + 1, own]
        if (low == low[0]).all() and (high == high[0]).all():
            parts.append((orders[:, low[0] : high[0]] * envs + np.arange(envs)[:, None]).ravel())
        else:
            parts.append(np.concatenate([orders[e, low[e] : high[e]] * envs + e for e in range(envs)]))
    return parts, counts
