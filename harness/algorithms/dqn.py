"""Deep Q-learning (Mnih et al. 2015, https://doi.org/10.1038/nature14236) and its extensions, each a switch: the double
estimator (van Hasselt et al. 2016), the dueling network (Wang et al. 2016), returns of several steps (Sutton and Barto
2018, section 7.1), prioritized replay (Schaul et al. 2016), and quantile regression (QR-DQN, Dabney et al. 2018).

N ranks are the same experiment as one: exploration and minibatches follow from the seed and from global indices,
gradients are weighted by sample counts, and each rank copies its target network from parameters that all agree on.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn
from torch.nn.functional import huber_loss

from harness.acting.greedy import Greedy
from harness.algorithms.base import Context, Evaluation
from harness.algorithms.common.off_policy import STAGED_BYTES, OffPolicy, frames_of
from harness.algorithms.settings.off_policy import DQNSettings
from harness.buffers.prioritized import PrioritizedReplay
from harness.buffers.replay import Replay
from harness.distributed.arena import Arena
from harness.envs.evaluation import Noise
from harness.models.probing import network_remarks
from harness.models.q_network import UsersQNetwork, make_q_network
from harness.randomness import generator
from harness.settings import named_object
from harness.training.compile.blocks import InBlocks
from harness.training.optimizers import make_optimizer
from harness.training.precision import Precision
from harness.training.schedules import LearningRate
from harness.training.step import Step

if TYPE_CHECKING:
    from harness.schema import RunConfig

STATISTICS = ("loss", "q_mean", "td_error")
"""Means over a minibatch: the loss; the values of the actions taken; how far they are from their targets."""


class DQN(OffPolicy):
    Settings = DQNSettings

    def __init__(self, context: Context) -> None:
        config, settings, envs = context.config, context.config.algorithm, context.environments
        assert isinstance(settings, DQNSettings) and envs is not None
        self.settings, device, communicator = settings, context.device, context.communicator
        torch.manual_seed(config.seed)
        self.module = self.network(config, envs.observation_space, envs.action_space).to(device)
        # Dropout would make the target of the moment a matter of chance: evaluation mode throughout, as for PPO
        self.module.eval()
        context.settle_threads(self.module)
        self.precision = Precision(config.precision, device)
        self.step = Step(
            self.module,
            lambda arena: make_optimizer(config.optimizer, [arena.flat]),
            communicator,
            self.precision,
            statistics=len(STATISTICS) + communicator.size,
            max_grad_norm=settings.max_grad_norm,
        )
        self.learning_rate = LearningRate(config.optimizer, self.step.optimizer, settings.batch_size)
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
        self.others = torch.zeros(communicator.size, device=device)
        self.ahead: InBlocks | None = None
        """Makes the target network's values of minibatches that are drawn together."""
        if at_once > 1:
            following = self.data["next_observations"]
            values = torch.zeros(len(following), self.actions, self.quantiles, device=device)
            self.data["target_values"] = values
            self.ahead = InBlocks(self.target, following, values, self.precision, math.ceil(len(values) / at_once))
        beside = [self.ahead] if self.ahead is not None and device.type == "cpu" else []
        compiled = self.compile_gradient(self.step, self.loss, self.data, "errors", beside)
        self.compiled, self.compile_reason = compiled

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
        how = "eager" if self.compiled is None else "compiled"
        of_network: list[str] = []
        if isinstance(self.module, UsersQNetwork):
            of_network = network_remarks(self.module.network, self.settings.name, self.module.changed)
        return [f"gradient {how} ({self.compile_reason})", *of_network, *super().notices()]

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
        self.means: list[list[float]] = []
        """The statistics of the iteration's updates."""

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
            self.target_parameters.copy_(self.step.arena.parameters)

    def learn(self, draws: np.ndarray, env_steps: int) -> int:
        minibatches, settings, phases = self.minibatches, self.settings, self.context.phases
        progress = env_steps / (self.iterations * self.env_steps_per_iteration)
        self.learning_rate.on_progress(progress)
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
        phases, arena, first_other = self.context.phases, self.step.arena, len(STATISTICS)
        phases.start("gradient")
        self.gradient(part)
        if self.settings.prioritized:  # the largest weight of each rank rides along
            weights = self.minibatches.arrays["weights"][part]
            arena.tail[first_other + self.communicator.rank] = float(weights.max(initial=0.0))
        phases.start("reduce")
        statistics = self.step.reduce()
        if self.settings.prioritized:
            largest = statistics[first_other:].max()
            arena.gradients.div_(largest)
            statistics[0] /= largest
        phases.start("optimizer")
        means = statistics[:first_other].tolist()
        if not math.isfinite(means[0]) and not self.precision.scales_loss:
            raise self.diverged()
        applied = self.step.apply()
        self.means.append(means)
        if isinstance(self.replay, PrioritizedReplay) and applied:  # an overflow's errors are no numbers
            phases.start("priorities")
            errors = self.data["errors"][part].cpu().numpy()
            self.replay.update(self.minibatches.env[part], self.minibatches.numbers[part], errors)
        return applied

    def gradient(self, part: slice) -> None:
        """Fills the arena with this rank's share of a minibatch's gradient."""
        count = part.stop - part.start
        weight = count / self.settings.batch_size
        if self.compiled is not None and count:
            self.compiled(self.minibatches.rows[part], (), weight)
        elif count:
            self.step.fill(lambda: self.eager_loss(part), weight)
        else:
            self.step.fill(None, 0.0)

    def eager_loss(self, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        loss, statistics, errors = self.loss({name: values[part] for name, values in self.data.items()})
        self.data["errors"][part] = errors
        return loss, statistics

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
        metrics["lr"] = self.learning_rate.value
        if self.means:
            metrics.update(zip(STATISTICS, np.mean(self.means, axis=0).tolist()))
        return metrics

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.learning_rate.on_metric("eval_return_mean", evaluation.mean)

    # -- state ---------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            **super().state(),
            "module": self.module.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.step.optimizer.state_dict(),
            "learning_rate": self.learning_rate.state_dict(),
            "precision": self.precision.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.module.load_state_dict(state["module"])
        self.target.load_state_dict(state["target"])
        self.step.optimizer.load_state_dict(state["optimizer"])
        self.learning_rate.load_state_dict(state["learning_rate"])
        self.precision.load_state(state["precision"])
