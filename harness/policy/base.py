"""How a policy is called, wherever it comes from: a run's directory or a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from harness.envs.evaluation import Noise


def as_batch(observations: Any, shape: Sequence[int]) -> tuple[np.ndarray, bool]:
    """(n, *shape), and whether a single observation was given; ValueError names both shapes where it is neither."""
    seen, shape = np.asarray(observations), tuple(shape)
    if seen.shape == shape:
        return seen[None], True
    if seen.shape[1:] != shape:
        raise ValueError(
            f"observations must be of shape (n, {', '.join(map(str, shape))}), or a single one of shape {shape}, "
            f"got {seen.shape}"
        )
    return seen, False


class CallablePolicy(ABC):
    """`policy(observations)`: observations (n, *shape), or a single one, to actions (n, …), or the single one, as the
    environment takes them."""

    shape: tuple[int, ...]
    """Of an observation."""
    drawn_from: Noise | None
    """What actions are drawn from; None where the policy draws none."""
    generator: np.random.Generator

    def __call__(self, observations: Any, deterministic: bool = True) -> np.ndarray:
        """`deterministic`: the likeliest actions; off: drawn as in training, where the policy draws any."""
        batch, single = as_batch(observations, self.shape)
        drawn = None
        if not deterministic and self.drawn_from is not None:
            drawn = np.stack([self.drawn_from.draw(self.generator) for _ in batch])
        actions = self.act(batch, drawn)
        return actions[0] if single else actions

    @abstractmethod
    def act(self, observations: np.ndarray, drawn: np.ndarray | None = None) -> np.ndarray:
        """Actions for observations (n, *shape) of any dtype, by random numbers where they are `drawn` by these."""
