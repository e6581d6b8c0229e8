"""What every algorithm offers to a run: iterations of work, an evaluation, and its state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from harness.buffers.ring import Ring
from harness.distributed.transports.base import Communicator
from harness.envs.evaluation import Noise
from harness.envs.returns import Evaluation
from harness.schema import AlgorithmSettings

if TYPE_CHECKING:
    from harness.envs import Environments
    from harness.reporting.phases import PhaseTimer
    from harness.schema import RunConfig


Act = Callable[[np.ndarray], np.ndarray]
"""From observations (n, *obs_shape) to actions for the environments."""


@dataclass(frozen=True)
class Context:
    """What a run hands to its algorithm."""

    config: RunConfig
    communicator: Communicator
    device: torch.device
    phases: PhaseTimer
    environments: Environments | None
    """This rank's share; None where `algorithm` has no use for any."""
    play: Callable[[Act, int, bool], np.ndarray]
    """`play(act, episodes, final)`: true returns, float64 (episodes,), equal on all ranks."""
    settle_threads: Callable[[nn.Module], None] = lambda module: None
    """To be called with the network before anything is compiled: compiled code is for so many threads."""
    listen: Callable[[float], float] = lambda most: most
    """Collective, in the middle of what can last: raises StopHere, on all ranks, where they agree to stop. Returns the
    largest of what the ranks give."""


@dataclass(frozen=True)
class Iteration:
    """One iteration's account, equal on all ranks."""

    env_steps: int
    gradient_steps: int
    metrics: dict[str, float]
    cut: int | None = None
    """Why the ranks agreed, by `Context.listen`, to end before it was over; what it has made is in the algorithm's
    state, and the next call makes the rest. None: it is whole."""


class Algorithm(ABC):
    """The run calls `iterate` `iterations` times, `evaluate` in between, and keeps what `state` gives.

    Every method is collective: all ranks call it at the same place.
    """

    Settings: ClassVar[type[AlgorithmSettings]]
    iterations: int
    env_steps_per_iteration: int
    module: nn.Module
    restless: Sequence[nn.Module] = ()
    """Networks that change their buffers whenever they are called; after each iteration these are made equal on all
    ranks, and evaluations leave them as they are."""
    compiled: Any = None
    """What computes its gradient where that is compiled; None where it is eager."""

    @abstractmethod
    def __init__(self, context: Context) -> None: ...

    @classmethod
    def check(cls, config: RunConfig, observation_space: spaces.Box, action_space: spaces.Space) -> None:
        """BadInput, before anything starts, where it cannot act in these spaces or its network cannot be built."""

    @classmethod
    def check_data(cls, config: RunConfig, ranks: int) -> None:
        """BadInput, before anything starts, where it has no environment and what it learns from does not do."""

    @classmethod
    def check_ranks(cls, config: RunConfig, communicator: Communicator) -> None:
        """BadInput, on all ranks and before anything is written, where what they keep is more than their hosts have;
        collective."""

    @abstractmethod
    def iterate(self, iteration: int) -> Iteration:
        """Iteration number `iteration` (from 0): one rollout (or epoch) and its updates."""

    @abstractmethod
    def evaluate(self, episodes: int, final: bool = False) -> Evaluation:
        """The deterministic policy on `episodes` episodes with seeds that training never uses; `final` takes others
        again."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Takes an evaluation of the run's schedule; a learning rate may listen to it."""

    def notices(self) -> list[str]:
        """What a person should know of how it was set up, a line each; told once, at the start."""
        return []

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that the future depends on, equal on all ranks: tensors and plain values."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None: ...

    def local_state(self) -> dict[str, Any]:
        """What this rank alone has, of its environments: each value an array (envs, …), a list of as many, a dict of
        these, or None. `rings` has what is too large to be saved whole each time."""
        return {}

    def load_local_state(self, state: dict[str, Any]) -> np.ndarray:
        """After `load_state`, and once `rings` are filled: goes on from the `local_state` of the environments that are
        this rank's now; bool (envs,), which of them go on with their episodes."""
        return np.zeros(0, dtype=bool)

    def restart_episodes(self, goes_on: np.ndarray, begun: np.ndarray) -> None:
        """Between iterations: of this rank's environments those that do not go on, bool (envs,), have begun new
        episodes with the observations `begun` (envs, …)."""

    def rings(self) -> dict[str, Ring]:
        """What this rank keeps of all that its environments went through, by name."""
        return {}

    def act_deterministic(self, observations: np.ndarray) -> np.ndarray:
        """The deterministic actions for observations that are normalised already, as the environment takes them."""
        raise NotImplementedError(f"{type(self).__name__} acts in no environment")

    @property
    def drawn_from(self) -> Noise | None:
        """What the policy draws its actions from; None where it draws nothing."""
        return None

    def act_sampled(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """As `act_deterministic`, with the actions that follow from `noise` (n, *drawn_from.shape), as in training."""
        raise NotImplementedError(f"{type(self).__name__} draws no actions")

    def close(self) -> None:
        """Gives back environments and workers."""
