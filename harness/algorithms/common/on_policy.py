"""What algorithms that learn from each rollout once it is made have in common: collecting it, cutting it into
minibatches, and how ranks share both.

N ranks are the same experiment as one: environments, action noise and minibatches follow from the seed and from global
indices, advantages are normalised over all ranks, and gradients are weighted by sample counts and clipped after they
are agreed.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces

from harness.acting.actors import MLPActor
from harness.algorithms.base import Algorithm, Context, Evaluation, Iteration
from harness.algorithms.common.collector import DATA, Collector
from harness.algorithms.common.description import describe_loss
from harness.algorithms.settings.on_policy import OnPolicySettings
from harness.buffers import minibatch_indices
from harness.distributed.agreement import fault_of_ranks
from harness.envs.evaluation import Noise
from harness.errors import Diverged
from harness.models.action_heads import HeadOptions
from harness.models.actor_critic import ActorCritic, make_actor_critic
from harness.models.probing import network_notices
from harness.randomness import generator
from harness.settings import named_object
from harness.training.compile.gradient import sizes_of
from harness.training.learner import Learner
from harness.training.updates import KlStop, Minibatch, UpdateSummary

if TYPE_CHECKING:
    from harness.schema import RunConfig


COEFFICIENTS = ("value_coefficient", "entropy_coefficient")
"""What a loss weighs its parts by. They come with each minibatch: constants in compiled code would tie it to them."""


class OnPolicy(Algorithm):
    """A subclass says what it makes of a rollout: `update`, and the `loss` of a minibatch."""

    STATISTICS: ClassVar[tuple[str, ...]]
    """What is told of each step, the loss first."""
    NUMBERS: ClassVar[tuple[str, ...]]
    """What a minibatch has beside its samples."""
    settings: OnPolicySettings
    module: ActorCritic

    def __init__(
        self, context: Context, epochs: int, minibatches: int, kl_limit: float | None = None, rollouts: int = 1
    ) -> None:
        """`epochs`: passes over a rollout; `minibatches` of each. `kl_limit`: what the statistic `kl` may be before a
        rollout's updates end. `rollouts`: of an iteration."""
        config, settings = context.config, context.config.algorithm
        assert isinstance(settings, OnPolicySettings) and config.env is not None and context.environments is not None
        self.context, self.config = context, config
        self.communicator, self.device, self.envs = context.communicator, context.device, context.environments
        share = self.envs.share
        self.samples = settings.rollout_steps * share.total
        assert config.run.steps is not None
        self.rollouts = min(rollouts, config.run.steps // self.samples)
        self.env_steps_per_iteration = self.samples * self.rollouts
        self.iterations = config.run.steps // self.env_steps_per_iteration
        self.minibatches = minibatches

        torch.manual_seed(config.seed)
        self.module = self.network(config, self.envs.observation_space, self.envs.action_space).to(self.device)
        # Dropout, and BatchNorm by its batch, would make the probability ratio compare two different networks, and the
        # deterministic policy none: the network stays in evaluation mode throughout.
        self.module.eval()
        self.own = config.network.class_ is not None
        self.restless = [self.module] if self.module.changed else []
        context.settle_threads(self.module)
        self.head = self.module.head
        self.learner = Learner(
            self.module,
            self.loss,
            context,
            self.STATISTICS,
            batch_size=self.samples // minibatches,
            max_grad_norm=settings.max_grad_norm,
            capturable=self.device.type == "cuda",
        )
        self.learners = (self.learner,)
        self.collector = Collector(context, self.module, self.learner.precision, settings)
        self.rollout = self.collector.rollout
        self.coefficients = tuple(float(getattr(settings, name)) for name in COEFFICIENTS)
        self.data = {name: self.rollout.flat(name).to(self.device) for name in DATA}
        self.iteration = 0
        """The next one."""
        self.learner.learn_from(
            self.data,
            sizes_of([self.minibatch_plan(0, 0)[0]]),
            gradient_steps=self.iterations * self.rollouts * epochs * minibatches,
            numbers=self.NUMBERS,
            eager="network.class changes its buffers whenever it is called" if self.restless else None,
            describe=partial(describe_loss, self, self.loss, self.data, self.NUMBERS),
        )
        self.kl_stop = KlStop(0 if kl_limit is None else self.STATISTICS.index("kl"), kl_limit)
        self.loop = self.learner.make_loop(self.kl_stop, on_device=self.device.type != "cpu")

    @staticmethod
    def network(config: RunConfig, observation_space: spaces.Box, action_space: spaces.Space) -> ActorCritic:
        assert config.env is not None
        user_class = named_object(config.network.class_, "network.class") if config.network.class_ else None
        settings = config.algorithm
        assert isinstance(settings, OnPolicySettings)
        options = HeadOptions(settings.squash, settings.gsde, settings.log_std_init)
        return make_actor_critic(config.network, observation_space, action_space, config.env, user_class, options)

    def notices(self) -> list[str]:
        of_network = network_notices(self.module.network, self.settings.name, self.module.changed) if self.own else []
        notices = (self.learner.notice, self.loop.notice, self.collector.actor.notice, *of_network)
        return [notice for notice in notices if notice]

    @classmethod
    def check(cls, config: RunConfig, observation_space: spaces.Box, action_space: spaces.Space) -> None:
        cls.network(config, observation_space, action_space)

    # -- one iteration -------------------------------------------------------------------------------------------------

    def iterate(self, iteration: int) -> Iteration:
        phases, communicator, collector = self.context.phases, self.communicator, self.collector
        sums: dict[str, float] = {}
        means: dict[str, float] = {}
        steps = 0
        for number in range(iteration * self.rollouts, (iteration + 1) * self.rollouts):
            episodes = collector.collect(number)
            sums = {name: sums.get(name, 0.0) + value for name, value in episodes.items()}
            phases.start("agree")
            if (number + 1) % self.rollouts == 0:
                agreed = communicator.agree({**sums, "faults": float(collector.fault is not None)})
                if agreed["faults"] and (fault := fault_of_ranks(collector.fault, communicator)) is not None:
                    raise fault
            self.envs.merge(communicator)
            try:
                metrics = self.update(number)
            except Diverged:  # on all ranks alike
                if (fault := fault_of_ranks(collector.fault, communicator)) is not None:
                    raise fault from None
                raise
            if "kl" in metrics:
                self.learner.learning_rate.on_metric("kl", metrics["kl"])
            steps += int(metrics.pop("gradient_steps"))
            means = {name: means.get(name, 0.0) + value / self.rollouts for name, value in metrics.items()}
        means.update(collector.episodes.means(agreed))
        means["lr"] = self.learner.learning_rate.value
        self.iteration = iteration + 1
        return Iteration(self.env_steps_per_iteration, steps, means)

    def update_on(self, rollout: int, minibatches: list[Minibatch]) -> UpdateSummary:
        """The updates of rollout number `rollout`, one for each minibatch."""
        self.to_device()
        rollouts = self.iterations * self.rollouts
        return self.learner.update_on(self.loop, minibatches, self.minibatches, rollout, rollouts)

    def to_device(self) -> None:
        """The rollout where minibatches are drawn from it: on the CPU that is the rollout itself.

        Elsewhere copies may still be under way on return; it is written again when the host has waited for the updates.
        """
        for name, values in self.data.items():
            if values.device.type != "cpu":
                values.copy_(self.rollout.flat(name), non_blocking=True)

    # -- what a subclass says ------------------------------------------------------------------------------------------

    @abstractmethod
    def update(self, rollout: int) -> dict[str, float]:
        """Learns from rollout number `rollout`: its metrics, of all ranks, and `gradient_steps`, the steps taken."""

    @abstractmethod
    def loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss over this rank's samples, and the statistics in the order of STATISTICS."""

    # -- what the ranks share out --------------------------------------------------------------------------------------

    def minibatch_plan(self, rollout: int, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        share = self.envs.share
        keys = generator(self.config.seed, "minibatches", rollout, epoch).random((share.total, self.rollout.steps))
        return minibatch_indices(keys, share.first, share.count, self.minibatches)

    def advantage_moments(self, plan: list[list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of the advantages of each minibatch over all ranks, (epochs, minibatches), by one
        collective.

        Also agrees the explained variance of the returns by the values, which needs the same kind of sums.
        """
        advantages = self.rollout.advantages.ravel().astype(np.float64)
        returns, values = self.rollout.returns.astype(np.float64), self.rollout.values
        sums = np.zeros((len(plan) * self.minibatches + 2, 3))
        for row, part in enumerate(part for parts in plan for part in parts):
            chosen = advantages[part]
            sums[row] = len(part), chosen.sum(), chosen @ chosen
        for row, array in ((-2, returns), (-1, returns - values)):
            sums[row] = array.size, array.sum(), np.square(array).sum()
        count, first, second = self.communicator.all_reduce_(torch.from_numpy(sums), name="advantages").numpy().T
        several = count > 1
        means = np.where(several, first / count, 0.0)  # a sample alone is not normalised: it would always be 0
        squares = np.maximum(second - count * np.square(first / count), 0.0)  # sums of squared deviations
        self.explained_variance = float(1.0 - squares[-1] / squares[-2]) if squares[-2] > 0 else float("nan")
        deviations = np.where(several, np.sqrt(squares / np.maximum(count - 1, 1)) + 1e-8, 1.0)
        shape = (len(plan), self.minibatches)
        return means[:-2].reshape(shape).astype(np.float32), deviations[:-2].reshape(shape).astype(np.float32)

    # -- the policy ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act_deterministic(self, observations: np.ndarray) -> np.ndarray:
        return self.head.for_environment(self.head.mode(self.parameters(observations)).cpu().numpy())

    def parameters(self, observations: np.ndarray) -> torch.Tensor:
        """float32 (n, parameters) of the head, by what training acts by."""
        if isinstance(actor := self.collector.actor, MLPActor):
            return torch.from_numpy(actor.parameters(observations))
        return self.module(torch.from_numpy(observations).to(self.device))[0]

    @property
    def drawn_from(self) -> Noise:
        return Noise(self.head.noise, self.head.noise_shape, self.settings.sde_sample_freq if self.settings.gsde else 1)

    @torch.no_grad()
    def act_sampled(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        actions = self.head.sample(self.parameters(observations), torch.from_numpy(noise).to(self.device))
        return self.head.for_environment(actions.cpu().numpy())

    def evaluate(self, episodes: int, final: bool = False) -> Evaluation:
        return Evaluation(self.context.play(self.act_deterministic, episodes, final))

    # -- state ---------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {**self.learner.state(), "environments": self.envs.state(), "iteration": self.iteration}

    def load_state(self, state: dict[str, Any]) -> None:
        self.learner.load_state(state)
        self.envs.load_state(state["environments"])
        self.iteration = int(state["iteration"])
        self.collector.restart(self.iteration)

    def local_state(self) -> dict[str, Any]:
        return self.collector.local_state()

    def load_local_state(self, state: dict[str, Any]) -> np.ndarray:
        return self.collector.load_local_state(state)

    def restart_episodes(self, goes_on: np.ndarray, begun: np.ndarray) -> None:
        self.collector.restart_episodes(goes_on, begun)

    def close(self) -> None:
        self.envs.close()
