"""What an algorithm remembers of its steps."""

from harness.algorithms.memory.episodes import EpisodeAccount
from harness.algorithms.memory.rollout import Rollout, minibatch_indices

__all__ = ["EpisodeAccount", "Rollout", "minibatch_indices"]
