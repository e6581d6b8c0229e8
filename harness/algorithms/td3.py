"""Twin delayed deep deterministic policy gradient (TD3, Fujimoto et al. 2018, https://arxiv.org/abs/1802.09477): its
algorithm 1, with targets from the lesser of two critics (equation 10), smoothed by noise on the target's actions
(section 5.3), and an actor that is updated less often than the critics (section 5.2).
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from harness.algorithms.base import Context
from harness.algorithms.common.off_policy_actor_critic import Continuous, lerp
from harness.algorithms.settings.off_policy import TD3Settings
from harness.distributed.arena import Arena
from harness.models.actor_critics import ActorCritics
from harness.training.compile.function import Batch
from harness.training.learner import Learner

CRITIC_STATISTICS = ("critic_loss", "q_mean")
"""Means over a minibatch: the critics' loss, and the first one's values of the actions taken."""
ACTOR_STATISTICS = ("actor_loss",)
KINDS = ("optimizer", "learning_rate", "precision")
"""Of a learner's state, beside its module's."""


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

        modules, size = self.module, settings.batch_size
        self.critics = Learner(modules.critics, self.critic_loss, context, CRITIC_STATISTICS, size, name="critics")
        self.actor = Learner(modules.actor, self.actor_loss, context, ACTOR_STATISTICS, size, name="actor")
        self.learners = (self.critics, self.actor)  # in the order of the module's parameters
        self.targets = copy.deepcopy(self.module)
        self.target_parameters = Arena(self.targets).parameters

    # -- acting --------------------------------------------------------------------------------------------------------

    def explore_near(self, step: int, observations: np.ndarray) -> np.ndarray:
        return np.clip(self.best(observations) + self.settings.action_noise * self.action_noise[step], -1.0, 1.0)

    def best(self, observations: np.ndarray) -> np.ndarray:
        return np.tanh(self.acting(observations)[1])

    # -- learning ------------------------------------------------------------------------------------------------------

    def update(self, number: int, part: slice, noise: np.ndarray) -> bool:
        applied = self.critics.update(part, self.weight(part))
        if (number + 1) % self.settings.policy_delay == 0:
            self.actor.update(part, self.weight(part))
            at = 0
            for learner in self.learners:
                arena = learner.step.arena
                lerp(self.target_parameters[at : at + arena.size], arena.parameters, self.settings.tau)
                at += arena.size
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

    # -- state ---------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        critics, actor = self.critics.state(), self.actor.state()
        return {
            **super().state(),
            "module": self.module.state_dict(),
            "targets": self.targets.state_dict(),
            **{f"{kind}s": {"critics": critics[kind], "actor": actor[kind]} for kind in KINDS},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.module.load_state_dict(state["module"])
        self.targets.load_state_dict(state["targets"])
        for name, learner in (("critics", self.critics), ("actor", self.actor)):
            own = {kind: state[f"{kind}s"][name] for kind in KINDS}
            learner.load_state({"module": learner.module.state_dict(), **own})
