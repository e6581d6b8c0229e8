"""Moments that the ranks share: of observations, and of discounted returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from harness.distributed.transports.base import Communicator


class RunningMoments:
    """Mean and variance of all that all ranks have seen, in float64, equal on all of them.

    They stand still during a rollout and take it in at its end by one collective: what a rank normalises by never
    depends
    on how the environments are shared out. (Chan, Golub and LeVeque 1983, equation 2.1, with exact counts.)
    """

    def __init__(self, shape: tuple[int, ...], clip: float = 10.0) -> None:
        self.shape, self.clip = shape, clip
        self.count = 0.0
        self.mean = np.zeros(shape)
        self.squares = np.zeros(shape)
        """Sum of squared deviations from the mean."""

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self.squares / self.count + 1e-8) if self.count else np.ones(self.shape)

    def normalize(self, values: np.ndarray) -> np.ndarray:
        """float32, centred, scaled and clipped; unchanged in scale before anything was taken in."""
        return np.clip((values - self.mean) / self.std, -self.clip, self.clip).astype(np.float32)

    def scale(self, values: np.ndarray) -> np.ndarray:
        """float32, scaled and clipped but not centred, for rewards."""
        return np.clip(values / self.std, -self.clip, self.clip).astype(np.float32)

    def merge(self, batch: np.ndarray, communicator: Communicator) -> None:
        """Merges every rank's `batch` of shape (n, *shape); n may differ between the ranks."""
        batch = batch.reshape(-1, *self.shape).astype(np.float64)
        about = self.mean
        if not self.count:  # sums about a mean far from the data would lose its digits
            added, first, _ = self._sums(batch, communicator)
            about = first / max(added, 1.0)
        added, first, second = self._sums(batch - about, communicator)
        if not added:
            return
        if not self.count:
            self.mean = about
        total = self.count + added
        self.squares = self.squares + second - np.square(first) / total
        self.mean = self.mean + first / total
        self.count = total

    def _sums(self, deviations: np.ndarray, communicator: Communicator) -> tuple[float, np.ndarray, np.ndarray]:
        """How many there are, their sum and the sum of their squares, over all ranks."""
        import torch  # here: who plays a policy's file needs none

        sums = np.concatenate([[len(deviations)], deviations.sum(0).ravel(), np.square(deviations).sum(0).ravel()])
        agreed = communicator.all_reduce_(torch.from_numpy(sums), name="moments").numpy()
        size = int(np.prod(self.shape))
        return float(agreed[0]), agreed[1 : 1 + size].reshape(self.shape), agreed[1 + size :].reshape(self.shape)

    def state(self) -> dict[str, Any]:
        import torch

        # np.array: moments of single numbers are numpy scalars, which torch does not take
        as_tensors = {name: torch.from_numpy(np.array(getattr(self, name))) for name in ("mean", "squares")}
        return {"count": self.count, **as_tensors}

    def load_state(self, state: dict[str, Any]) -> None:
        self.count = float(state["count"])
        self.mean, self.squares = state["mean"].numpy().copy(), state["squares"].numpy().copy()


class ReturnScaler:
    """Scales rewards by the standard deviation of the discounted return so far (Engstrom et al. 2020, section 3)."""

    def __init__(self, count: int, discount: float) -> None:
        self.moments = RunningMoments(())
        self.discount = discount
        self.returns = np.zeros(count)
        self.seen: list[np.ndarray] = []

    def scale(
        self, rewards: np.ndarray, done: np.ndarray, rows: slice = slice(None), valid: np.ndarray | None = None
    ) -> np.ndarray:
        """`rows`: whose rewards these are; those that are not `valid` have made no step."""
        returns = self.returns[rows] * self.discount + rewards
        self.seen.append(returns if valid is None else returns[valid])
        self.returns[rows] = np.where(done, 0.0, returns)
        return self.moments.scale(rewards)

    def merge(self, communicator: Communicator) -> None:
        self.moments.merge(np.concatenate(self.seen) if self.seen else np.zeros(0), communicator)
        self.seen = []
