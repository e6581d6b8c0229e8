"""Deep Q-learning (Mnih et al. 2015, https://doi.org/10.1038/nature14236) and its extensions, each a switch: the double
estimator (van Hasselt et al. 2016), the dueling network (Wang et al. 2016), returns of several steps (Sutton and Barto
2018, section 7.1), prioritized replay (Schaul et al. 2016), and quantile regression (QR-DQN, Dabney et al. 2018).

N ranks are the same experiment as one: exploration and minibatches follow from the seed and from global indices,
gradients are weighted by sample counts, and each rank copies its target network from parameters that all agree on.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn
from torch.nn.functional import huber_loss

from harness.acting.greedy import Greedy
from harness.algorithms.base import Context
from harness.algorithms.common.off_policy import STAGED_BYTES, OffPolicy
from harness.algorithms.settings.off_policy import DQNSettings
from harness.buffers.prioritized import PrioritizedReplay
from harness.buffers.replay import Replay
from harness.buffers.replay_memory import frames_of
from harness.distributed.arena import Arena
from harness.envs.evaluation import Noise
from harness.models.probing import network_notices
from harness.models.q_network import UsersQNetwork, make_q_network
from harness.randomness import generator
from harness.settings import named_object
from harness.training.compile.blocks import InBlocks
from harness.training.learner import Learner

if TYPE_CHECKING:
    from harness.schema import RunConfig

STATISTICS = ("loss", "q_mean", "td_error")
"""Means over a minibatch: the loss; the values of the actions taken; how far they are from their targets."""


class DQN(OffPolicy):
    Settings = DQNSettings

    def __init__(self, context: Context) -> None:
        config, settings, envs = context.config, context.config.algorithm, context.environments
        assert isinstance(settings, DQNSettings) and envs is not None
        self.settings, device = settings, context.device
        torch.manual_seed(config.seed)
        self.module = self.network(config, envs.observation_space, envs.action_space).to(device)
        # Dropout would make the target of the moment a matter of chance: evaluation mode throughout, as for PPO
        self.module.eval()
        context.settle_threads(self.module)
        self.learner = Learner(
            self.module,
            self.loss,
            context,
            STATISTICS,
            settings.batch_size,
            settings.max_grad_norm,
            relative_weights=settings.prioritized,
        )
        self.learners = (self.learner,)
        self.target = copy.deepcopy(self.module)
        self.target_parameters = Arena(self.target).parameters
        self.target.requires_grad_(False)
        if isinstance(self.module, UsersQNetwork) and self.module.changed:
            self.restless = [self.module, self.target]
        self.greedy = Greedy(self.module, device)

        replay = self.make_replay(context)
        assert isinstance(envs.action_space, spaces.Discrete)
        self.actions, self.quantiles = int(envs.action_space.n), max(settings.quantiles, 1)
        sample = 2 * math.prod(replay.observation_shape) * replay.frames.itemsize + 4 * self.actions * self.quantiles
        minibatches = max(1, STAGED_BYTES // (settings.batch_size * sample))
        at_once = 1 if settings.prioritized else min(settings.gradient_steps, minibatches)
        super().__init__(context, replay, at_once)
        self.start, self.action_dtype = int(envs.action_space.start), np.dtype(envs.action_space.dtype)
        self.as_drawn = not self.start and self.action_dtype == np.int64
        self.data = {**self.minibatches.data, "errors": torch.zeros(len(self.minibatches.rows), device=device)}
        """What a minibatch has of each of its samples; its errors come from the loss."""
        self.taus = (torch.arange(self.quantiles, device=device) + 0.5) / self.quantiles
        self.others = torch.zeros(context.communicator.size if settings.prioritized else 0, device=device)
        """Places of the largest weight of each rank."""
        self.ahead: InBlocks | None = None
        """Makes the target network's values of minibatches that are drawn together."""
        if at_once > 1:
            following = self.data["next_observations"]
            values = torch.zeros(len(following), self.actions, self.quantiles, device=device)
            self.data["target_values"] = values
            self.ahead = InBlocks(
                self.target, following, values, self.learner.precision, math.ceil(len(values) / at_once)
            )
        beside = [self.ahead] if self.ahead is not None and device.type == "cpu" else []
        self.learn_from(self.data, "errors", beside)

    def reads(self, learner: Learner) -> Sequence[torch.Tensor]:
        return [*self.target.parameters(), *self.target.buffers(), self.taus, self.others]

    @staticmethod
    def network(config: RunConfig, observation_space: spaces.Box, action_space: spaces.Space) -> nn.Module:
        settings = config.algorithm
        assert isinstance(settings, DQNSettings) and config.env is not None
        user_class = named_object(config.network.class_, "network.class") if config.network.class_ else None
        sizes = "dqn", max(settings.quantiles, 1), settings.dueling
        return make_q_network(config.network, observation_space, action_space, config.env, *sizes, user_class)

    @classmethod
    def check(cls, config: RunConfig, observation_space: spaces.Box, action_space: spaces.Space) -> None:
        cls.network(config, observation_space, action_space)

    @classmethod
    def kept(cls, config: RunConfig, action_space: spaces.Space) -> tuple[np.ndarray, int]:
        assert config.env is not None
        return np.zeros((), np.int64), frames_of(config.env)

    def make_replay(self, context: Context) -> Replay:
        envs, settings = context.environments, self.settings
        assert envs is not None
        share, shape, dtype = envs.share, envs.observation_space.shape, envs.observation_dtype
        capacity, (action, stack) = settings.buffer_size // share.total, self.kept(context.config, envs.action_space)
        kind: Any = Replay
        arguments: dict[str, Any] = {"n_steps": settings.n_steps, "gamma": settings.gamma, "stack": stack}
        if settings.prioritized:
            kind, arguments["alpha"] = PrioritizedReplay, settings.priority_exponent
        return kind(capacity, share.count, shape, dtype, action, **arguments)

    def notices(self) -> list[str]:
        of_network: list[str] = []
        if isinstance(self.module, UsersQNetwork):
            of_network = network_notices(self.module.network, self.settings.name, self.module.changed)
        return [*super().notices(), *of_network]

    # -- acting --------------------------------------------------------------------------------------------------------

    def epsilon(self, env_steps: np.ndarray | int) -> np.ndarray:
        """ε after so many environment steps; 1 before learning starts."""
        settings = self.settings
        span = settings.exploration_fraction * self.iterations * self.env_steps_per_iteration
        done = np.minimum(np.asarray(env_steps) / max(span, 1.0), 1.0)
        rest = settings.exploration_initial_eps - settings.exploration_final_eps
        falling = settings.exploration_initial_eps - rest * done
        return np.where(np.asarray(env_steps) < settings.learning_starts, 1.0, falling)

    def prepare(self, iteration: int) -> None:
        """Which steps are random, and by which actions: drawn for all environments on every rank."""
        share, steps = self.envs.share, len(self.dones)
        dice, choice = generator(self.config.seed, "actions", iteration).random((2, steps, share.total))
        env_steps = iteration * self.env_steps_per_iteration + np.arange(steps) * share.total
        self.random = (dice < self.epsilon(env_steps)[:, None])[:, share.slice]
        self.random_actions = (choice * self.actions).astype(np.int64)[:, share.slice]
        self.all_random = self.random.all(1).tolist()
        self.learner.forget()

    def explore(self, step: int, observations: np.ndarray) -> np.ndarray:
        if self.all_random[step]:
            return self.random_actions[step]
        return np.where(self.random[step], self.random_actions[step], self.greedy(observations))

    def for_environment(self, actions: np.ndarray) -> np.ndarray:
        return actions if self.as_drawn else (actions + self.start).astype(self.action_dtype, copy=False)

    def act_deterministic(self, observations: np.ndarray) -> np.ndarray:
        return self.for_environment(self.greedy(observations))

    @property
    def drawn_from(self) -> Noise:
        return Noise("uniform", (2,))

    def act_sampled(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """With the ε that training goes on with."""
        dice, choice = noise.T
        drawn = np.minimum((choice * self.actions).astype(np.int64), self.actions - 1)
        epsilon = self.epsilon(self.iteration * self.env_steps_per_iteration)
        return self.for_environment(np.where(dice < epsilon, drawn, self.greedy(observations)))

    # -- learning ------------------------------------------------------------------------------------------------------

    def on_round(self, env_steps: int) -> None:
        interval = self.settings.target_update_interval
        if env_steps // interval > (env_steps - self.settings.train_freq) // interval:
            self.target_parameters.copy_(self.learner.step.arena.parameters)

    def learn(self, draws: np.ndarray, env_steps: int) -> int:
        minibatches, settings, phases = self.minibatches, self.settings, self.context.phases
        progress = env_steps / (self.iterations * self.env_steps_per_iteration)
        self.learner.learning_rate.on_progress(progress)
        beta = settings.importance_exponent + (1.0 - settings.importance_exponent) * progress
        applied, at_once = 0, self.at_once
        for first in range(0, len(draws), at_once):
            phases.start("sample")
            self.draw(self.updates + first, draws[first : first + at_once], beta)
            for number in range(len(minibatches.edges) - 1):
                applied += self.update(minibatches.part(number))
        phases.start("rest")
        return applied

    def draw(self, first: int, draws: np.ndarray, beta: float) -> None:
        """The minibatches from number `first` on, and the target network's values of what follows: it stays as it is
        until the next round's steps. `draws`, `beta`: as for `Minibatches.draw`."""
        self.minibatches.draw(first, draws, beta)
        if self.ahead is not None:
            self.context.phases.start("targets")
            self.ahead(self.minibatches.edges[-1])

    def update(self, part: slice) -> bool:
        """One step by the minibatch in the rows `part`; False where it was skipped."""
        minibatches, weight = self.minibatches, self.weight(part)
        if not isinstance(self.replay, PrioritizedReplay):
            return self.learner.update(part, weight)
        largest = float(minibatches.arrays["weights"][part].max(initial=0.0))
        applied = self.learner.update(part, weight, largest)
        if applied:  # an overflow's errors are no numbers
            self.context.phases.start("priorities")
            errors = self.data["errors"][part].cpu().numpy()
            self.replay.update(minibatches.env[part], minibatches.numbers[part], errors)
        return applied

    def loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The mean loss over this rank's samples, the statistics in the order of STATISTICS, and how wrong each sample
        was, for its priority."""
        samples = torch.arange(len(batch["actions"]), device=self.device)
        values = self.module(batch["observations"]).float()
        chosen = values[samples, batch["actions"]]  # (n, quantiles)
        with torch.no_grad():
            target_values = self.target_values(batch)
            guide = self.module(batch["next_observations"]).float() if self.settings.double else target_values
            best = guide.mean(-1).argmax(-1)
            following = target_values[samples, best]
            targets = batch["returns"][:, None] + batch["discounts"][:, None] * following
        if self.settings.quantiles:
            losses = self.quantile_loss(chosen, targets)
            errors = losses.detach()
        else:
            losses = huber_loss(chosen, targets, reduction="none").squeeze(-1)
            errors = (targets - chosen).detach().squeeze(-1)
        if self.settings.prioritized:
            losses = losses * batch["weights"]
        loss = losses.mean()
        with torch.no_grad():
            distance = (targets.mean(-1) - chosen.mean(-1)).abs().mean()
            statistics = torch.cat([torch.stack([loss, chosen.mean(), distance]), self.others])
        return loss, statistics, errors

    def target_values(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Of the states that follow (n, actions, quantiles)."""
        made = batch.get("target_values")
        return self.target(batch["next_observations"]).float() if made is None else made

    def quantile_loss(self, quantiles: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Dabney et al. 2018, equation 10 with κ = 1, summed over the quantiles and averaged over the targets as in
        their algorithm 1; both (n, N), the losses (n,)."""
        errors = targets[:, None, :] - quantiles[:, :, None]
        below = (errors.detach() < 0).float()
        huber = torch.where(errors.abs() <= 1.0, 0.5 * errors.square(), errors.abs() - 0.5)
        return ((self.taus[:, None] - below).abs() * huber).mean(2).sum(1)

    def metrics(self) -> dict[str, float]:
        metrics = {"epsilon": float(self.epsilon((self.iteration + 1) * self.env_steps_per_iteration))}
        return {**metrics, "lr": self.learner.learning_rate.value, **self.learner.means()}

    # -- state ---------------------------------------------------------------------------------------------------------

    def replica_state(self) -> dict[str, Any]:
        return {"targets": self.target.state_dict()}

    def load_replica_state(self, state: dict[str, Any]) -> None:
        self.target.load_state_dict(state["targets"])

    def state(self) -> dict[str, Any]:
        return {**super().state(), **self.learner.state(), "target": self.target.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.learner.load_state(state)
        self.target.load_state_dict(state["target"])
