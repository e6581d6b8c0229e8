"""What algorithms that learn from replay have in common: rounds of acting and learning, and how ranks share them.

A round is `train_freq` environment steps, then `gradient_steps` updates; an iteration is so many rounds that the run's
own work between iterations is small beside them. A rank acts in its share of the environments and keeps their
transitions; noise and draws from the replay follow from the seed and from global indices, so that N ranks are the same
experiment as one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces

from harness.algorithms.base import Algorithm, Context, Evaluation, Iteration
from harness.algorithms.common.description import describe_loss
from harness.algorithms.settings.off_policy import OffPolicySettings
from harness.buffers import EpisodeAccount
from harness.buffers.minibatches import Minibatches
from harness.buffers.replay import Replay, bytes_of
from harness.buffers.replay_memory import check_memory
from harness.buffers.ring import Ring
from harness.distributed.agreement import fault_of_ranks
from harness.distributed.transports.base import Communicator
from harness.envs.faults import fault_in_observation, fault_in_reward, is_finite
from harness.envs.inspection import check_environment
from harness.envs.vectors import observation_dtype, share_of
from harness.errors import Diverged
from harness.randomness import generator
from harness.training.compile.gradient import (
    Batch,
    Beside,
)
from harness.training.learner import Learner

if TYPE_CHECKING:
    from harness.schema import RunConfig

STAGED_BYTES = 2**24
"""Minibatches are drawn so many at once that they take about this much memory: what stays in a cache."""


class OffPolicy(Algorithm):
    """A subclass sets up what it learns in its `__init__`, before or after this one's, and says how it acts, and how it
    learns from minibatches."""

    def __init__(self, context: Context, replay: Replay, at_once: int) -> None:
        """`at_once`: minibatches that may be drawn together, because what is drawn does not depend on what is learned
        between them."""
        config, settings = context.config, context.config.algorithm
        assert isinstance(settings, OffPolicySettings) and config.run.steps is not None
        assert context.environments is not None
        self.context, self.config, self.communicator, self.device = (
            context,
            config,
            context.communicator,
            context.device,
        )
        self.envs, self.replay = context.environments, replay
        share = self.envs.share
        self.rounds = settings.rounds(config.run.steps)
        self.env_steps_per_iteration = self.rounds * settings.train_freq
        self.iterations = settings.collected(config.run.steps) // self.env_steps_per_iteration
        self.steps_of_a_round = settings.train_freq // share.total
        steps = self.rounds * self.steps_of_a_round
        self.true_rewards = np.zeros((steps, share.count), np.float32)
        self.dones = np.zeros((steps, share.count), bool)
        self.lives: list[tuple[int, int]] = []
        """(step, environment) where a life was lost and the game goes on."""
        self.episodes = EpisodeAccount(share.count, self.envs.settings.info_metrics)
        self.sees_floats = self.envs.observation_dtype.kind == "f"
        self.broken: list[tuple[int, np.ndarray]] = []
        """(step, observations (envs, …)) with a number in them that is not finite."""
        self.fault: str | None = None
        """What is wrong with what an environment of this rank gave, in words."""
        self.at_once = at_once
        self.minibatches = Minibatches(replay, share, settings.batch_size, at_once, self.device)
        self.updates = 0
        """Minibatches of all rounds so far."""
        self.iteration = 0
        """The next one."""
        self.begin(0)

    @classmethod
    def check_ranks(cls, config: RunConfig, communicator: Communicator) -> None:
        settings = config.algorithm
        assert isinstance(settings, OffPolicySettings) and config.env is not None
        observation_space, action_space = check_environment(config.env)
        share = share_of(config.env.count, communicator.rank, communicator.size)
        action, stack = cls.kept(config, action_space)
        shape, dtype = observation_space.shape, observation_dtype(observation_space)
        check_memory(
            settings.buffer_size,
            share.count * bytes_of(settings.buffer_size // share.total, shape, dtype, action, stack),
            communicator,
        )

    @classmethod
    @abstractmethod
    def kept(cls, config: RunConfig, action_space: spaces.Space) -> tuple[np.ndarray, int]:
        """What the replay has of an action, by an example, and how many frames an observation is a stack of."""

    @property
    def gradient_steps(self) -> int:
        """Updates that the run is to make, about."""
        assert isinstance(self.config.algorithm, OffPolicySettings)
        return self.iterations * self.rounds * self.config.algorithm.gradient_steps

    def begin(self, iteration: int) -> None:
        """New episodes everywhere."""
        self.observations = self.envs.reset(self.config.seed, iteration)
        self.replay.begin(self.observations)
        self.fed = 0
        """Steps of each environment that came into the replay."""

    # -- one iteration -------------------------------------------------------------------------------------------------

    def iterate(self, iteration: int) -> Iteration:
        settings, phases, communicator = self.config.algorithm, self.context.phases, self.communicator
        assert isinstance(settings, OffPolicySettings)
        self.prepare(iteration)
        draw = generator(self.config.seed, "minibatches", iteration)
        draws = draw.random((self.rounds, settings.gradient_steps, settings.batch_size))
        env_steps, applied = iteration * self.env_steps_per_iteration, 0
        for number in range(self.rounds):
            first = number * self.steps_of_a_round
            self.collect(range(first, first + self.steps_of_a_round))
            env_steps += settings.train_freq
            self.on_round(env_steps)
            if self.fault is None:
                self.fault = self.fault_of_round(iteration, first)
            if self.fault is not None:  # a loss that is none ends the updates of all ranks
                self.minibatches.spoilt = True
            if self.can_learn:
                try:
                    applied += self.learn(draws[number], env_steps)
                except Diverged:  # on all ranks alike
                    if (fault := fault_of_ranks(self.fault, communicator)) is not None:
                        raise fault from None
                    raise
                self.updates += settings.gradient_steps
        phases.start("agree")
        episodes = self.episodes.merge(self.true_rewards, self.dones, self.lives)
        agreed = communicator.agree({**episodes, "faults": float(self.fault is not None)})
        self.lives = []
        if agreed["faults"] and (fault := fault_of_ranks(self.fault, communicator)) is not None:
            raise fault
        metrics = {**self.metrics(), **self.episodes.means(agreed)}
        self.iteration = iteration + 1
        return Iteration(self.env_steps_per_iteration, applied, metrics)

    def collect(self, steps: range) -> None:
        """`steps` of this rank's environments, into the replay."""
        phases, envs, replay = self.context.phases, self.envs, self.replay
        for step in steps:
            phases.start("act")
            actions = self.explore(step, self.observations)
            phases.start("environment")
            result = envs.step(self.for_environment(actions))
            phases.start("store")
            replay.add(actions, result)
            self.true_rewards[step] = result.true_rewards
            np.logical_or(result.terminated, result.truncated, out=self.dones[step])
            if self.sees_floats and not is_finite(result.observations):
                self.broken.append((step, result.observations))
            if result.final_observations is not None and self.sees_floats:
                final = result.final_observations[result.truncated]
                if not is_finite(final):
                    whole = np.zeros_like(result.final_observations)
                    whole[result.truncated] = final
                    self.broken.append((step, whole))
            if result.lives_lost is not None:
                self.lives += [(step, env) for env in np.flatnonzero(result.lives_lost).tolist()]
            if result.info_metrics is not None:
                self.episodes.note(result)
            self.observations = result.observations
        self.fed += len(steps)

    def fault_of_round(self, iteration: int, first: int) -> str | None:
        """What is wrong with what this rank's environments gave in the round whose first step of the iteration is
        `first`, if anything."""
        before, own = iteration * len(self.dones), self.envs.share.first
        for step, observations in self.broken:
            return fault_in_observation(observations, own, before + step + 1)
        rewards = self.true_rewards[first : first + self.steps_of_a_round]
        return None if is_finite(rewards) else fault_in_reward(rewards, own, before + first + 1)

    @property
    def can_learn(self) -> bool:
        """Whether enough was stored; the same on all ranks."""
        settings = self.config.algorithm
        assert isinstance(settings, OffPolicySettings)
        needed = max(settings.learning_starts, settings.batch_size)
        return self.fed * self.envs.share.total >= needed and self.fed >= 2 * self.replay.n_steps

    def learn_from(self, data: Batch, per_sample: str | None = None, beside: Sequence[Beside] = ()) -> None:
        """Has the learners learn from minibatches that are rows of `data`: compiled all of them, or none.

        `per_sample`, `beside`: as `Learner.learn_from` has them."""
        eager = "network.class changes its buffers whenever it is called" if self.restless else None
        for learner in self.learners:
            sizes = self.minibatches.sizes()
            learner.learn_from(
                *(data, sizes, self.gradient_steps),
                per_sample=per_sample,
                beside=beside,
                eager=eager,
                describe=partial(describe_loss, self, learner.loss, data, ()),
                reads=self.reads(learner),
            )
            eager = learner.compile_reason if learner.compiled is learner.function is None else None

    def weight(self, part: slice) -> float:
        """This rank's share of the samples of a minibatch, of which it has the rows `part`."""
        return (part.stop - part.start) / self.minibatches.batch_size

    # -- what a subclass says ------------------------------------------------------------------------------------------

    def reads(self, learner: Learner) -> Sequence[torch.Tensor]:
        """What a learner's loss reads beside its minibatch and its own parameters; they keep their places."""
        return ()

    @abstractmethod
    def prepare(self, iteration: int) -> None:
        """Before an iteration's first step: draws its noise."""

    @abstractmethod
    def explore(self, step: int, observations: np.ndarray) -> np.ndarray:
        """Actions (envs, …) of this rank's environments in step number `step` of the iteration, as the replay keeps
        them."""

    def for_environment(self, actions: np.ndarray) -> np.ndarray:
        """Such actions as the environment takes them."""
        return actions

    def on_round(self, env_steps: int) -> None:
        """After a round's steps, of which there are `env_steps` now: what goes by them."""

    @abstractmethod
    def learn(self, draws: np.ndarray, env_steps: int) -> int:
        """A round's updates, by the minibatches from number `updates` on; how many were not skipped. `draws`: float64
        (gradient_steps, batch_size), for `minibatches.draw`."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Of the iteration that ends."""

    # -- evaluation and state ------------------------------------------------------------------------------------------

    def evaluate(self, episodes: int, final: bool = False) -> Evaluation:
        return Evaluation(self.context.play(self.act_deterministic, episodes, final))

    def state(self) -> dict[str, Any]:
        return {"environments": self.envs.state(), "iteration": self.iteration, "updates": self.updates}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on with new episodes and an empty replay, unless `load_local_state` brings this rank's part of them."""
        self.envs.load_state(state["environments"])
        self.iteration, self.updates = int(state["iteration"]), int(state["updates"])
        self.begin(self.iteration)

    def local_state(self) -> dict[str, Any]:
        return {
            "observations": self.observations,
            "episodes": self.episodes.state(),
            "environments": self.envs.local_state(),
            "replay": self.replay.state(),
            "fed": np.full(self.envs.share.count, self.fed),
        }

    def load_local_state(self, state: dict[str, Any]) -> np.ndarray:
        goes_on = self.envs.load_local_state(state["environments"], self.observations)
        self.observations = self.observations.copy()
        self.observations[goes_on] = state["observations"][goes_on]
        self.episodes.load_state(state["episodes"], goes_on)
        self.replay.load_state(state["replay"])
        for env in np.flatnonzero(~goes_on).tolist():
            self.replay.break_off(env, self.observations[env])
        self.fed = int(state["fed"][0])
        return goes_on

    def restart_episodes(self, goes_on: np.ndarray, begun: np.ndarray) -> None:
        self.observations = self.observations.copy()
        self.observations[~goes_on] = begun[~goes_on]
        self.episodes.restart_episodes(goes_on)
        for env in np.flatnonzero(~goes_on).tolist():
            self.replay.break_off(env, begun[env])

    def rings(self) -> dict[str, Ring]:
        return self.replay.rings()

    def close(self) -> None:
        self.envs.close()
