"""Proximal policy optimisation (Schulman et al. 2017), with the clipped surrogate of its equation 7.

N ranks are the same experiment as one: environments, action noise and minibatches follow from the seed and from global
indices; advantages are normalised over all ranks, gradients weighted by sample counts and clipped after they are
agreed, and the KL stop looks at the KL of all ranks.
"""

from __future__ import annotations

import torch

from harness.algorithms.base import Context
from harness.algorithms.common.on_policy import COEFFICIENTS, OnPolicy
from harness.algorithms.settings.on_policy import PPOSettings
from harness.training.updates import Minibatch

STATISTICS = ("loss", "policy_loss", "value_loss", "entropy", "kl", "clip_fraction")
NUMBERS = ("clip", "centre", "scale", *COEFFICIENTS)
"""What a minibatch has beside its samples: ε, and what centres and scales its advantages."""


class PPO(OnPolicy):
    Settings = PPOSettings
    STATISTICS, NUMBERS = STATISTICS, NUMBERS
    settings: PPOSettings

    def __init__(self, context: Context) -> None:
        settings, environments = context.config.algorithm, context.environments
        assert isinstance(settings, PPOSettings) and environments is not None
        self.settings = settings
        samples = settings.rollout_steps * environments.share.total
        minibatches = max(1, round(samples / settings.minibatch_size))
        limit = None if settings.target_kl is None else 1.5 * settings.target_kl
        super().__init__(context, settings.epochs, minibatches, limit)

    def update(self, rollout: int) -> dict[str, float]:
        """K epochs of minibatches; means of the statistics over them (those before a stop on KL), over all ranks."""
        settings = self.settings
        clip = settings.clip_range
        if settings.clip_schedule == "linear":
            clip *= 1.0 - rollout / self.iterations
        plan = [self.minibatch_plan(rollout, epoch) for epoch in range(settings.epochs)]
        centres, scales = self.advantage_moments([parts for parts, _ in plan])
        minibatches = [
            Minibatch(
                part,
                (clip, centres[epoch, number], scales[epoch, number], *self.coefficients),
                len(part) / counts[number],
            )
            for epoch, (parts, counts) in enumerate(plan)
            for number, part in enumerate(parts)
        ]
        done = self.update_on(rollout, minibatches)
        metrics = dict(zip(STATISTICS, done.means))
        if done.stopped and not done.batches:
            metrics["kl"] = done.kl
        metrics["explained_variance"] = self.explained_variance
        return {**metrics, "clip_range": clip, "gradient_steps": done.taken}

    def loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Equation 9, negated, as the mean over this rank's samples; and the statistics, in the order of STATISTICS."""
        settings, advantages, clip = self.settings, batch["advantages"], batch["clip"]
        if settings.normalize_advantages:
            advantages = (advantages - batch["centre"]) / batch["scale"]
        parameters, values = self.module(batch["observations"])
        log_ratio = self.head.log_prob(parameters, batch["actions"]) - batch["log_probs"]
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
        policy_loss = -torch.min(ratio * advantages, clipped * advantages).mean()
        if settings.clip_range_value is not None:
            limit = settings.clip_range_value
            values = batch["values"] + (values - batch["values"]).clamp(-limit, limit)
        value_loss = (values - batch["returns"]).square().mean()
        entropy = self.head.entropy(parameters).mean()
        loss = policy_loss + batch["value_coefficient"] * value_loss - batch["entropy_coefficient"] * entropy
        with torch.no_grad():
            kl = (ratio - 1.0 - log_ratio).mean()  # http://joschu.net/blog/kl-approx.html, k3
            clip_fraction = ((ratio - 1.0).abs() > clip).float().mean()
            statistics = torch.stack([loss, policy_loss, value_loss, entropy, kl, clip_fraction])
        return loss, statistics
