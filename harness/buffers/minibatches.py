"""Minibatches from a replay whose parts lie on several ranks: the same samples on any number of them."""

from __future__ import annotations

import math

import numpy as np
import torch

from harness.buffers.prioritized import PrioritizedReplay
from harness.buffers.replay import Replay
from harness.envs.vectors import Share


class Minibatches:
    """This rank's part of some minibatches at once, in preallocated tensors that stay where they are.

    Sample g of all that a run ever draws (minibatch u holds those from u * batch_size on) is a transition of the global
    environment g modulo their number, so that a minibatch takes as evenly from all environments as it can.
    """

    def __init__(self, replay: Replay, share: Share, batch_size: int, at_once: int, device: torch.device) -> None:
        """`at_once`: how many minibatches are drawn together at most."""
        self.replay, self.share, self.batch_size = replay, share, batch_size
        most = share.count * math.ceil(at_once * batch_size / share.total)
        shape, dtype = replay.observation_shape, replay.frames.dtype
        self.arrays = {
            "observations": np.zeros((most, *shape), dtype),
            "actions": np.zeros((most, *replay.actions.shape[1:]), replay.actions.dtype),
            "returns": np.zeros(most, np.float32),
            "discounts": np.zeros(most, np.float32),
            "next_observations": np.zeros((most, *shape), dtype),
        }
        if isinstance(replay, PrioritizedReplay):
            self.arrays["weights"] = np.zeros(most, np.float32)
        self.data = {name: torch.from_numpy(array).to(device) for name, array in self.arrays.items()}
        """The same, on the device: rows of these are a minibatch."""
        self.rows = torch.arange(most, device=device)
        self.edges = [0]
        """Where the rows of each minibatch that was drawn begin, and where the last ends."""
        self.spoilt = False
        """Whether nothing is to be learned from them any more."""
        self.own = np.zeros(0, np.int64)
        """Which samples of the minibatches that were drawn together the rows are, counted over all ranks."""

    def sizes(self) -> list[int]:
        """How many rows this rank's part of a minibatch may have."""
        period = self.share.total // math.gcd(self.batch_size, self.share.total)
        edges = self.owned(0, period)[1]
        return sorted({int(size) for size in np.diff(edges) if size})

    def owned(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which samples of the minibatches from `first` on are this rank's (n,), where each minibatch's begin
        (count + 1,), and of which of its environments they are (n,)."""
        size, share = self.batch_size, self.share
        env = np.arange(first * size, (first + count) * size) % share.total - share.first
        own = np.flatnonzero((env >= 0) & (env < share.count))
        return own, np.searchsorted(own, np.arange(count + 1) * size), env[own]

    def draw(self, first: int, draws: np.ndarray, beta: float = 0.0) -> None:
        """Draws the minibatches from number `first` on. `draws`: float64 (minibatches, batch_size) in [0, 1), the same
        on all ranks. `beta`: by how much importance weights make up for priorities."""
        replay, count = self.replay, len(draws)
        own, edges, env = self.owned(first, count)
        self.edges, self.own = edges.tolist(), own
        self.env, fractions = env, draws.reshape(-1)[own]
        if isinstance(replay, PrioritizedReplay):
            fractions = self.stratified(first, own, env, fractions)
        self.numbers = replay.sample(env, fractions)
        replay.fetch(env, self.numbers, self.arrays)
        if self.spoilt:
            self.arrays["returns"][:] = np.nan
        if isinstance(replay, PrioritizedReplay):
            self.arrays["weights"][: len(own)] = replay.weights(env, self.numbers, beta)
        for name, values in self.data.items():
            if values.device.type != "cpu":
                values.copy_(torch.from_numpy(self.arrays[name]))

    def stratified(self, first: int, own: np.ndarray, env: np.ndarray, fractions: np.ndarray) -> np.ndarray:
        """`fractions` in as many equal ranges of the sum as its environment has samples in the minibatch, one in each
        (section 3.3 of the paper of prioritized replay)."""
        size, total = self.batch_size, self.share.total
        begins = (first + own // size) * size
        before = (begins - env - self.share.first - 1) // total  # of this environment's samples, less one
        samples = (begins + size - env - self.share.first - 1) // total - before
        return (own % size // total + fractions) / samples

    def part(self, minibatch: int) -> slice:
        """The rows of minibatch number `minibatch` of those that were drawn."""
        return slice(self.edges[minibatch], self.edges[minibatch + 1])
