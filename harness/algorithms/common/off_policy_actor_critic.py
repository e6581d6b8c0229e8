"""What algorithms that learn continuous actions from replay have in common: an actor, two critics, and their noise.

Actions are kept and learned from in [-1, 1], whatever the bounds are. All noise is drawn on every rank for
all environments and whole minibatches, of which each rank takes its part, so that N ranks are the same experiment as
one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from harness.acting.greedy import ActorInNumpy
from harness.algorithms.base import Context
from harness.algorithms.common.off_policy import STAGED_BYTES, OffPolicy
from harness.algorithms.settings.off_policy import ContinuousSettings
from harness.buffers.replay import Replay
from harness.models.action_heads import Bounds
from harness.models.actor_critics import ActorCritics
from harness.randomness import generator
from harness.training.learner import Learner

if TYPE_CHECKING:
    from harness.schema import RunConfig


class Continuous(OffPolicy):
    """A subclass makes its networks and learners in `set_up`, and says how it explores and what an update is."""

    NOISES: ClassVar[int]
    """How many vectors of standard normal numbers, as wide as an action, a sample of a minibatch has."""
    module: ActorCritics
    targets: Any
    """The target networks, a module."""

    def __init__(self, context: Context) -> None:
        config, settings, envs = context.config, context.config.algorithm, context.environments
        assert isinstance(settings, ContinuousSettings) and envs is not None
        assert isinstance(envs.action_space, spaces.Box)
        self.action_space, self.bounds = envs.action_space, Bounds(envs.action_space)
        self.actions = int(np.prod(self.action_space.shape))
        torch.manual_seed(config.seed)
        self.set_up(context)
        context.settle_threads(self.module)
        self.acting = ActorInNumpy(self.module.actor, context.device)

        share, shape, dtype = envs.share, envs.observation_space.shape, envs.observation_dtype
        capacity, (action, _) = settings.buffer_size // share.total, self.kept(config, self.action_space)
        replay = Replay(capacity, share.count, shape, dtype, action, gamma=settings.gamma)
        minibatch = settings.batch_size * 2 * int(np.prod(shape)) * replay.frames.itemsize
        super().__init__(context, replay, min(settings.gradient_steps, max(1, STAGED_BYTES // minibatch)))

        self.noise = np.zeros((len(self.minibatches.rows), self.NOISES, self.actions), np.float32)
        self.data = {**self.minibatches.data, "noise": torch.from_numpy(self.noise).to(self.device)}
        """What a minibatch has of each of its samples."""
        self.learn_from(self.data)

    @abstractmethod
    def set_up(self, context: Context) -> None:
        """Makes `module`, in evaluation mode, its `learners`, and its target networks."""

    def reads(self, learner: Learner) -> Sequence[torch.Tensor]:
        own = {id(parameter) for parameter in learner.step.arena.members}
        networks: tuple[nn.Module, ...] = self.module, self.targets
        return [
            each for network in networks for each in (*network.parameters(), *network.buffers()) if id(each) not in own
        ]

    def replica_state(self) -> dict[str, Any]:
        return {"targets": self.targets.state_dict()}

    def load_replica_state(self, state: dict[str, Any]) -> None:
        self.targets.load_state_dict(state["targets"])

    @classmethod
    def kept(cls, config: RunConfig, action_space: spaces.Space) -> tuple[np.ndarray, int]:
        assert isinstance(action_space, spaces.Box)
        return np.zeros(int(np.prod(action_space.shape)), np.float32), 1

    # -- acting --------------------------------------------------------------------------------------------------------

    def prepare(self, iteration: int) -> None:
        """Random actions and the noise of the others: drawn for all environments on every rank."""
        settings, share, steps = self.config.algorithm, self.envs.share, len(self.dones)
        assert isinstance(settings, ContinuousSettings)
        self.under_way = iteration
        first = iteration * self.env_steps_per_iteration
        self.random = (first + np.arange(steps) * share.total < settings.learning_starts).tolist()
        draw = generator(self.config.seed, "actions", iteration)
        uniform = 2.0 * draw.random((steps, share.total, self.actions), dtype=np.float32) - 1.0
        self.random_actions = uniform[:, share.slice]
        self.action_noise = self.draw_action_noise(draw, steps)
        self.update_noise: np.ndarray | None = None
        for learner in self.learners:
            learner.forget()

    def draw_action_noise(self, draw: np.random.Generator, steps: int) -> np.ndarray:
        """Float32 (steps, envs, a), standard normal, for this rank's environments."""
        share = self.envs.share
        return draw.standard_normal((steps, share.total, self.actions), dtype=np.float32)[:, share.slice]

    def explore(self, step: int, observations: np.ndarray) -> np.ndarray:
        return self.random_actions[step] if self.random[step] else self.explore_near(step, observations)

    @abstractmethod
    def explore_near(self, step: int, observations: np.ndarray) -> np.ndarray:
        """Actions (envs, a) in [-1, 1] of the policy with the step's noise."""

    @abstractmethod
    def best(self, observations: np.ndarray) -> np.ndarray:
        """The policy's deterministic actions (n, a) in [-1, 1]."""

    def for_environment(self, actions: np.ndarray) -> np.ndarray:
        return self.bounds.scale(actions)

    def act_deterministic(self, observations: np.ndarray) -> np.ndarray:
        return self.for_environment(self.best(observations))

    @torch.no_grad()
    def values(self, observations: np.ndarray) -> np.ndarray:
        """What states (n, *obs_shape) are worth with the deterministic policy, as the lesser critic has it."""
        seen, actions = (torch.from_numpy(each).to(self.device) for each in (observations, self.best(observations)))
        return torch.minimum(*(critic(seen, actions) for critic in self.module.critics)).cpu().numpy()

    # -- learning ------------------------------------------------------------------------------------------------------

    def learn(self, draws: np.ndarray, env_steps: int) -> int:
        minibatches, phases, applied = self.minibatches, self.context.phases, 0
        for learner in self.learners:
            learner.learning_rate.on_progress(env_steps / (self.iterations * self.env_steps_per_iteration))
        if self.update_noise is None:
            draw = generator(self.config.seed, "updates", self.under_way)
            self.update_noise = self.draw_update_noise(draw, self.rounds * len(draws))
        round_number = (env_steps - self.under_way * self.env_steps_per_iteration) // self.env_steps_of_a_round - 1
        first_of_round = round_number * len(draws)
        for first in range(0, len(draws), self.at_once):
            phases.start("sample")
            chosen = draws[first : first + self.at_once]
            minibatches.draw(self.updates + first, chosen)
            noise = self.update_noise[first_of_round + first : first_of_round + first + len(chosen)]
            self.set_noise(noise)
            for number in range(len(chosen)):
                applied += self.update(self.updates + first + number, minibatches.part(number), noise[number])
        phases.start("rest")
        return applied

    @property
    def env_steps_of_a_round(self) -> int:
        return self.env_steps_per_iteration // self.rounds

    def draw_update_noise(self, draw: np.random.Generator, updates: int) -> np.ndarray:
        """Float32 (updates, …): the noise of an iteration's updates, of all ranks; by default (updates, batch_size,
        NOISES, a)."""
        return draw.standard_normal((updates, self.minibatches.batch_size, *self.noise.shape[1:]), dtype=np.float32)

    def set_noise(self, noise: np.ndarray) -> None:
        """Of the noise (minibatches, …) of what was drawn together, this rank's rows."""
        own = self.minibatches.own
        self.noise[: len(own)] = noise.reshape(-1, *self.noise.shape[1:])[own]
        if self.device.type != "cpu":
            self.data["noise"].copy_(torch.from_numpy(self.noise))

    @abstractmethod
    def update(self, number: int, part: slice, noise: np.ndarray) -> bool:
        """Update `number` of the run, by the minibatch in the rows `part`; False where it was skipped. `noise`: what
        `draw_update_noise` has for it."""

    def metrics(self) -> dict[str, float]:
        metrics = {"lr": self.learners[0].learning_rate.value}
        for learner in self.learners:
            metrics.update(learner.means())
        return metrics


def lerp(target: torch.Tensor, learned: torch.Tensor, tau: float) -> None:
    """θ' <- τ θ + (1 - τ) θ'"""
    target.lerp_(learned, tau)
