"""What an algorithm remembers of its steps."""

from harness.buffers.episodes import EpisodeAccount
from harness.buffers.rollout import Rollout, minibatch_indices

__all__ = ["EpisodeAccount", "Rollout", "minibatch_indices"]
