"""What an algorithm remembers of its acting."""

from harness.algorithms.memory.rollout import Rollout, minibatch_indices

__all__ = ["Rollout", "minibatch_indices"]
