"""Advantage actor-critic, the synchronous form of A3C (Mnih et al. 2016, algorithm S3): one step on each short rollout.

It is PPO without what makes a rollout last for several steps: no ratio, no clipping, no epochs.
"""

from __future__ import annotations

import math

import torch

from harness.algorithms.base import Context
from harness.algorithms.common.on_policy import COEFFICIENTS, OnPolicy
from harness.algorithms.settings.on_policy import A2CSettings
from harness.training.updates import Minibatch

STATISTICS = ("loss", "policy_loss", "value_loss", "entropy")
NUMBERS = ("centre", "scale", *COEFFICIENTS)
"""What a rollout has beside its samples: what centres and scales its advantages."""
STEPS_OF_AN_ITERATION = 250
"""Environment steps that an iteration has at least: several rollouts, where they are short."""


class A2C(OnPolicy):
    Settings = A2CSettings
    STATISTICS, NUMBERS = STATISTICS, NUMBERS
    settings: A2CSettings

    def __init__(self, context: Context) -> None:
        settings, environments = context.config.algorithm, context.environments
        assert isinstance(settings, A2CSettings) and environments is not None
        self.settings = settings
        samples = settings.rollout_steps * environments.share.total
        super().__init__(context, epochs=1, minibatches=1, rollouts=math.ceil(STEPS_OF_AN_ITERATION / samples))

    def update(self, rollout: int) -> dict[str, float]:
        """One step on the whole rollout."""
        (rows,), counts = self.minibatch_plan(rollout, 0)
        centres, scales = self.advantage_moments([[rows]])
        numbers = centres[0, 0], scales[0, 0], *self.coefficients
        done = self.update_on(rollout, [Minibatch(rows, numbers, len(rows) / counts[0])])
        metrics = dict(zip(STATISTICS, done.means))
        return {**metrics, "explained_variance": self.explained_variance, "gradient_steps": done.taken}

    def loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The policy gradient -log π(a|s) A, the value's squared error and the entropy, as means over this rank's
        samples; and the statistics, in the order of STATISTICS."""
        settings, advantages = self.settings, batch["advantages"]
        if settings.normalize_advantages:
            advantages = (advantages - batch["centre"]) / batch["scale"]
        parameters, values = self.module(batch["observations"])
        policy_loss = -(self.head.log_prob(parameters, batch["actions"]) * advantages).mean()
        value_loss = (values - batch["returns"]).square().mean()
        entropy = self.head.entropy(parameters).mean()
        loss = policy_loss + batch["value_coefficient"] * value_loss - batch["entropy_coefficient"] * entropy
        return loss, torch.stack([loss, policy_loss, value_loss, entropy]).detach()
