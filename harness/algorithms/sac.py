"""Soft actor-critic with a learned temperature (SAC, Haarnoja et al. 2018b, https://arxiv.org/abs/1812.05905), whose
equations are told by their numbers, with state-dependent exploration (gSDE, Raffin et al. 2021,
https://arxiv.org/abs/2005.05719) as a switch.

An update is one step on one gradient, of critics, actor and temperature together: each from the parameters before it,
while the paper's algorithm 1 steps one after the other.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from harness.algorithms.base import Context
from harness.algorithms.common.off_policy_actor_critic import Continuous, lerp
from harness.algorithms.settings.off_policy import SACSettings
from harness.distributed.arena import Arena
from harness.envs.evaluation import Noise
from harness.models.action_heads import log_slope_of_tanh, normal_log_prob, state_dependent_variance
from harness.models.actor_critics import ActorCritics
from harness.training.compile.function import Batch
from harness.training.learner import Learner

if TYPE_CHECKING:
    from harness.schema import RunConfig

STATISTICS = ("loss", "critic_loss", "actor_loss", "q_mean", "entropy", "temperature")
"""Means over a minibatch: the sum of the losses; J_Q and J_π; the values of the actions taken; -log π; and α."""
LOG_STD_BOUNDS = -20.0, 2.0
"""Of the policy's deviations, as in the authors' code."""
MEAN_BOUND = 2.0
"""gSDE: means beyond it, where tanh is flat, are brought back to it, as Raffin et al. do."""


class Networks(ActorCritics):
    """Critics, actor, and the log of the temperature; with gSDE the log of the noise's deviations (features, a)."""

    def __init__(self, settings: SACSettings, inputs: int, actions: int, config: RunConfig) -> None:
        outputs = actions if settings.gsde else 2 * actions
        super().__init__(inputs, actions, outputs, config.network.hidden, config.network.activation)
        learned = settings.temperature is None
        start = settings.initial_temperature if settings.temperature is None else settings.temperature
        self.log_temperature = nn.Parameter(torch.tensor(math.log(start)), requires_grad=learned)
        if settings.gsde:
            self.log_std = nn.Parameter(torch.full((self.actor.features, actions), settings.log_std_init))


class SAC(Continuous):
    Settings = SACSettings
    module: Networks

    def set_up(self, context: Context) -> None:
        config, settings, envs = context.config, context.config.algorithm, context.environments
        assert isinstance(settings, SACSettings) and envs is not None
        self.settings = settings
        self.NOISES = 0 if settings.gsde else 2  # type: ignore[misc]
        inputs = int(np.prod(envs.observation_space.shape))
        self.module = Networks(settings, inputs, self.actions, config).to(context.device).eval()
        self.learns_temperature = self.module.log_temperature.requires_grad
        self.learner = Learner(self.module, self.loss, context, STATISTICS, settings.batch_size)
        self.learners = (self.learner,)
        self.targets = copy.deepcopy(self.module.critics)
        self.target_parameters = Arena(self.targets).parameters
        first = next(self.module.critics.parameters()).storage_offset()
        self.learned = self.learner.step.arena.parameters[first : first + len(self.target_parameters)]
        """The critics' parameters, which lie together."""
        self.matrix = torch.zeros(
            self.module.actor.features if settings.gsde else 0, self.actions, device=context.device
        )
        """gSDE: the standard normal numbers of an update, for all samples of its minibatch."""

    @property
    def target_entropy(self) -> float:
        chosen = self.settings.target_entropy
        return -float(self.actions) if chosen is None else chosen

    def reads(self, learner: Learner) -> Sequence[torch.Tensor]:
        return [*super().reads(learner), self.matrix]

    # -- acting --------------------------------------------------------------------------------------------------------

    def draw_action_noise(self, draw: np.random.Generator, steps: int) -> np.ndarray:
        """With gSDE float32 (drawings, envs, features, a): matrices are drawn at the start of each round and after each
        `sde_sample_freq` steps of it."""
        if not self.settings.gsde:
            return super().draw_action_noise(draw, steps)
        of_round, share = np.arange(steps) % self.steps_of_a_round, self.envs.share
        begins = of_round % (self.settings.sde_sample_freq or self.steps_of_a_round) == 0
        self.drawing = np.cumsum(begins) - 1
        """Which of the drawings is that of a step."""
        shape = int(begins.sum()), share.total, *self.matrix.shape
        return draw.standard_normal(shape, dtype=np.float32)[:, share.slice]

    def explore_near(self, step: int, observations: np.ndarray) -> np.ndarray:
        return self.drawn(observations, self.action_noise[self.drawing[step] if self.settings.gsde else step])

    def drawn(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Actions (n, a) in [-1, 1] that follow from the noise (n, a); with gSDE (n, features, a)."""
        features, outputs = self.acting(observations)
        if self.settings.gsde:
            std = np.exp(self.module.log_std.detach().cpu().numpy())
            distance = np.matmul(features[:, None, :], std * noise)[:, 0]
            return np.tanh(np.clip(outputs, -MEAN_BOUND, MEAN_BOUND) + distance)
        mean, log_std = np.split(outputs, 2, axis=1)
        return np.tanh(mean + np.exp(np.clip(log_std, *LOG_STD_BOUNDS)) * noise)

    @property
    def drawn_from(self) -> Noise:
        if self.settings.gsde:
            return Noise("normal", tuple(self.matrix.shape), self.settings.sde_sample_freq)
        return Noise("normal", (self.actions,))

    def act_sampled(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return self.for_environment(self.drawn(observations, noise))

    def best(self, observations: np.ndarray) -> np.ndarray:
        outputs = self.acting(observations)[1]
        return np.tanh(np.clip(outputs, -MEAN_BOUND, MEAN_BOUND) if self.settings.gsde else outputs[:, : self.actions])

    # -- learning ------------------------------------------------------------------------------------------------------

    def draw_update_noise(self, draw: np.random.Generator, updates: int) -> np.ndarray:
        if not self.settings.gsde:
            return super().draw_update_noise(draw, updates)
        return draw.standard_normal((updates, *self.matrix.shape), dtype=np.float32)

    def set_noise(self, noise: np.ndarray) -> None:
        if not self.settings.gsde:
            super().set_noise(noise)

    def update(self, number: int, part: slice, noise: np.ndarray) -> bool:
        if self.settings.gsde:
            self.matrix.copy_(torch.from_numpy(noise))
        applied = self.learner.update(part, self.weight(part))
        if (number + 1) % self.settings.target_update_interval == 0:
            lerp(self.target_parameters, self.learned, self.settings.tau)
        return applied

    def loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The losses' sum, each a mean over this rank's samples, and the statistics in the order of STATISTICS; of each
        loss only what it is to change has a gradient."""
        module, observations, after = self.module, batch["observations"], batch["next_observations"]
        log_temperature = module.log_temperature
        temperature = log_temperature.detach().exp()
        with torch.no_grad():
            next_actions, next_log_probs = self.sample(after, batch, 1)
            next_values = torch.minimum(*(target(after, next_actions) for target in self.targets))
            next_values = next_values - temperature * next_log_probs  # equation 3
            targets = batch["returns"] + batch["discounts"] * next_values  # equation 2
        values = [critic(observations, batch["actions"]) for critic in module.critics]
        critic_loss = sum(
            (0.5 * (each - targets).square().mean() for each in values), start=torch.zeros(())
        )  # equation 5
        actions, log_probs = self.sample(observations, batch, 0)
        least = torch.minimum(*(critic(observations, actions, frozen=True) for critic in module.critics))
        actor_loss = (temperature * log_probs - least).mean()  # equation 9
        loss = critic_loss + actor_loss
        if self.learns_temperature:  # equation 18, with log α in the place of α as in the authors' code
            loss = loss - (log_temperature * (log_probs.detach() + self.target_entropy)).mean()
        with torch.no_grad():
            statistics = (loss, critic_loss, actor_loss, values[0].mean(), -log_probs.mean(), temperature)
            return loss, torch.stack(statistics)

    def sample(self, observations: torch.Tensor, batch: Batch, noise: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions (n, a) in [-1, 1] that follow from the noise (equation 8), and their log-probabilities (n,): those
        of what tanh is taken of, less the log of its slope (equation 26)."""
        features, outputs = self.module.actor(observations)
        if self.settings.gsde:
            mean = outputs.clamp(-MEAN_BOUND, MEAN_BOUND)
            distance = features @ (self.module.log_std.exp() * self.matrix)
            log_std = 0.5 * state_dependent_variance(features, self.module.log_std).log()
        else:
            mean, log_std = outputs.chunk(2, 1)
            log_std = log_std.clamp(*LOG_STD_BOUNDS)
            distance = log_std.exp() * batch["noise"][:, noise]
        free = mean + distance
        return free.tanh(), normal_log_prob(distance, log_std) - log_slope_of_tanh(free).sum(-1)

    # -- state ---------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {**super().state(), **self.learner.state(), "targets": self.targets.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.learner.load_state(state)
        self.targets.load_state_dict(state["targets"])
