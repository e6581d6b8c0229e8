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
from harness.distributed.mesh import Mesh
from harness.distributed.sync.base import Synchronizer
from harness.distributed.transports.base import Communicator
from harness.envs.evaluation import Noise
from harness.envs.returns import Evaluation
from harness.schema import AlgorithmSettings

if TYPE_CHECKING:
    from harness.envs import Environments
    from harness.reporting.phases import PhaseTimer
    from harness.run.stopping import StopReason
    from harness.schema import RunConfig
    from harness.training.learner import Learner


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
    mesh: Mesh | None = None
    """The groups of ranks by what they share; None: `communicator` is all there is."""
    synchronizer: Synchronizer | None = None
    """How the ranks stay one policy; None: they sum gradients over `communicator`."""


@dataclass(frozen=True)
class Iteration:
    """One iteration's account, equal on all ranks."""

    env_steps: int
    gradient_steps: int
    metrics: dict[str, float]
    cut: StopReason | None = None
    """Why the ranks agreed, by `Context.listen`, to end before it was over; what it has made is in the algorithm's
    state, and the next call makes the rest. None: it is whole."""


class Algorithm(ABC):
    """The run calls `iterate` `iterations` times, `evaluate` in between, and keeps what `state` gives.

    Every method is collective: all ranks call it at the same place.
    """

    Settings: ClassVar[type[AlgorithmSettings]] = AlgorithmSettings
    """Of the section `algorithm`."""
    iterations: int
    env_steps_per_iteration: int
    module: nn.Module
    restless: Sequence[nn.Module] = ()
    """Networks that change their buffers whenever they are called; after each iteration these are made equal on all
    ranks, and evaluations leave them as they are."""
    learners: Sequence[Learner] = ()
    """What takes its steps; the first is the one that notices and metrics are about."""

    @abstractmethod
    def __init__(self, context: Context) -> None: ...

    @classmethod
    def check(cls, config: RunConfig, observation_space: spaces.Box, action_space: spaces.Space) -> None:
        """BadInput, before anything starts, where a network of the user's own cannot be built for these spaces, which
        the settings' `check_spaces` has found good. Called where there is such a network or algorithm alone."""

    @classmethod
    def check_data(cls, config: RunConfig, ranks: int) -> None:
        """As `check`, without an environment and after the settings' `check_data`."""

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

    @property
    def compiled(self) -> Any:
        """What computes its gradient where that is compiled; None where it is eager."""
        return self.learners[0].compiled if self.learners else None

    @property
    def compile_mode(self) -> str:
        """What `compile.mode` came to be."""
        return self.learners[0].mode if self.learners else "off"

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Takes an evaluation of the run's schedule; a learning rate may listen to it."""
        for learner in self.learners:
            learner.learning_rate.on_metric("eval_return_mean", evaluation.mean)

    def notices(self) -> list[str]:
        """What a person should know of how it was set up, a line each; told once, at the start."""
        return [learner.notice for learner in self.learners[:1]]

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that the future depends on, equal on all ranks: tensors and plain values."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None: ...

    def replica_state(self) -> dict[str, Any]:
        """What of `state` this rank has otherwise than others where replicas may differ, beside what learners learn."""
        return {}

    def load_replica_state(self, state: dict[str, Any]) -> None:
        """After `load_state`: resumes from `replica_state`."""

    def local_state(self) -> dict[str, Any]:
        """What this rank alone has, of its environments: each value an array (envs, …), a list of as many, a dict of
        these, or None. `rings` has what is too large to be saved whole each time."""
        return {}

    def load_local_state(self, state: dict[str, Any]) -> np.ndarray:
        """After `load_state`, and once `rings` are filled: restores the `local_state` of the environments that are
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
