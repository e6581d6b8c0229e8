"""Twin delayed deep deterministic policy gradient (TD3, Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477): its
algorithm 1, with targets from the lesser of two critics (equation 10), smoothed by noise on the target's actions
(section 5.3), and an actor that is updated less often than the critics (section 5.2).
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch

from harness.algorithms.base import Context, Evaluation
from harness.algorithms.common.off_policy_actor_critic import Continuous, lerp
from harness.algorithms.settings.off_policy import TD3Settings
from harness.distributed.arena import Arena
from harness.models.actor_critics import ActorCritics
from harness.training.compile.gradient import Batch, CompiledGradient
from harness.training.optimizers import make_optimizer
from harness.training.precision import Precision
from harness.training.schedules import LearningRate
from harness.training.step import Step

CRITIC_STATISTICS = ("critic_loss", "q_mean")
"""Means over a minibatch: the critics' loss, and the first one's values of the actions taken."""
ACTOR_STATISTICS = ("actor_loss",)


class TD3(Continuous):
    Settings = TD3Settings
    NOISES = 1

    def set_up(self, context: Context) -> None:
        config, settings, envs = context.config, context.config.algorithm, context.environments
        assert isinstance(settings, TD3Settings) and envs is not None
        self.settings = settings
        inputs, network = int(np.prod(envs.observation_space.shape)), config.network
        self.module = ActorCritics(inputs, self.actions, self.actions, network.hidden, network.activation)
        self.module.to(context.device).eval()

        def step_of(module: torch.nn.Module, statistics: int) -> Step:
            own = Precision(config.precision, context.device)
            make = lambda arena: make_optimizer(config.optimizer, [arena.flat])  # noqa: E731
            return Step(module, make, context.communicator, own, statistics)

        self.critic_step = step_of(self.module.critics, len(CRITIC_STATISTICS))
        self.actor_step = step_of(self.module.actor, len(ACTOR_STATISTICS))
        self.steps = {"critics": self.critic_step, "actor": self.actor_step}
        size = settings.batch_size
        self.learning_rates = {
            name: LearningRate(config.optimizer, step.optimizer, size) for name, step in self.steps.items()
        }
        self.targets = copy.deepcopy(self.module)
        self.target_parameters = Arena(self.targets).parameters
        self.actor_compiled: CompiledGradient | None = None

    def compile(self) -> tuple[CompiledGradient | None, str]:
        compiled, reason = self.compile_gradient(self.critic_step, self.critic_loss, self.data)
        if compiled is not None:
            self.actor_compiled, _ = self.compile_gradient(self.actor_step, self.actor_loss, self.data)
        return compiled, reason

    # -- acting --------------------------------------------------------------------------------------------------------

    def explore_near(self, step: int, observations: np.ndarray) -> np.ndarray:
        return np.clip(self.best(observations) + self.settings.action_noise * self.action_noise[step], -1.0, 1.0)

    def best(self, observations: np.ndarray) -> np.ndarray:
        return np.tanh(self.acting(observations)[1])

    # -- learning ------------------------------------------------------------------------------------------------------

    def on_progress(self, progress: float) -> None:
        for rate in self.learning_rates.values():
            rate.on_progress(progress)

    def update(self, number: int, part: slice, noise: np.ndarray) -> bool:
        self.fill(self.critic_step, self.compiled, self.critic_loss, part)
        applied = self.apply(self.critic_step, CRITIC_STATISTICS)
        if (number + 1) % self.settings.policy_delay == 0:
            self.fill(self.actor_step, self.actor_compiled, self.actor_loss, part)
            self.apply(self.actor_step, ACTOR_STATISTICS)
            at = 0
            for step in self.steps.values():  # in the order of the module's parameters
                size = step.arena.size
                lerp(self.target_parameters[at : at + size], step.arena.parameters, self.settings.tau)
                at += size
        return applied

    def apply(self, step: Step, names: tuple[str, ...]) -> bool:
        """The step by what its arena was filled with; False where it was skipped."""
        phases = self.context.phases
        phases.start("reduce")
        statistics = step.reduce().tolist()
        phases.start("optimizer")
        if not math.isfinite(statistics[0]) and not step.precision.scales_loss:
            raise self.diverged()
        applied = step.apply()
        self.log(names, statistics)
        return applied

    def critic_loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Both critics' squared errors, means over this rank's samples, and CRITIC_STATISTICS."""
        settings, observations, after = self.settings, batch["observations"], batch["next_observations"]
        with torch.no_grad():
            noise = settings.target_policy_noise * batch["noise"][:, 0]
            noise = noise.clamp(-settings.target_noise_clip, settings.target_noise_clip)
            next_actions = (self.targets.actor(after)[1].tanh() + noise).clamp(-1.0, 1.0)
            next_values = torch.minimum(*(critic(after, next_actions) for critic in self.targets.critics))
            targets = batch["returns"] + batch["discounts"] * next_values  # equation 10
        first, second = (critic(observations, batch["actions"]) for critic in self.module.critics)
        loss = (first - targets).square().mean() + (second - targets).square().mean()
        return loss, torch.stack([loss.detach(), first.detach().mean()])

    def actor_loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """What the first critic thinks of the actor's actions, whose gradient is equation 1's, less than 0, and
        ACTOR_STATISTICS."""
        actions = self.module.actor(batch["observations"])[1].tanh()
        loss = -self.module.critics[0](batch["observations"], actions, frozen=True).mean()
        return loss, loss.detach()[None]

    def metrics(self) -> dict[str, float]:
        return {"lr": self.learning_rates["critics"].value, **super().metrics()}

    def on_evaluation(self, evaluation: Evaluation) -> None:
        for rate in self.learning_rates.values():
            rate.on_metric("eval_return_mean", evaluation.mean)

    # -- state ---------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            **super().state(),
            "module": self.module.state_dict(),
            "targets": self.targets.state_dict(),
            "optimizers": {name: step.optimizer.state_dict() for name, step in self.steps.items()},
            "learning_rates": {name: rate.state_dict() for name, rate in self.learning_rates.items()},
            "precisions": {name: step.precision.state() for name, step in self.steps.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.module.load_state_dict(state["module"])
        self.targets.load_state_dict(state["targets"])
        for name, step in self.steps.items():
            step.optimizer.load_state_dict(state["optimizers"][name])
            self.learning_rates[name].load_state_dict(state["learning_rates"][name])
            step.precision.load_state(state["precisions"][name])
