"""Settings of the algorithms that learn from each rollout once it is made."""

from __future__ import annotations

from typing import Literal

from gymnasium import spaces
from pydantic import Field

from harness.errors import BadInput
from harness.models.spaces import check_actions, convolves
from harness.schema import AlgorithmSettings, RunConfig


class OnPolicySettings(AlgorithmSettings):
    rollout_steps: int = Field(128, ge=1)
    """Steps of each environment between updates (T)."""
    gamma: float = Field(0.99, ge=0, le=1)
    """Discount."""
    gae_lambda: float = Field(0.95, ge=0, le=1)
    """λ of generalised advantage estimation (Schulman et al. 2016): how far ahead an advantage looks before it trusts
    the value estimate. 0: one step, little variance and the estimate's bias; 1: returns up to the end of the rollout,
    less the value, without that bias and with the most variance."""
    normalize_advantages: bool = True
    """Centre and scale the advantages of each minibatch, over all ranks."""
    entropy_coefficient: float = Field(0.0, ge=0)
    """What the policy's entropy counts in the loss (c2)."""
    value_coefficient: float = Field(0.5, ge=0)
    """What the value's squared error counts in the loss (c1)."""
    max_grad_norm: float | None = Field(0.5, gt=0)
    """2-norm that the agreed gradient is clipped to."""
    squash: bool = False
    """Continuous actions: bring them to their bounds by tanh, rather than clip them there."""
    gsde: bool = False
    """Continuous actions: state-dependent exploration, whose noise is a function of the state's features."""
    sde_sample_freq: int | None = Field(None, ge=1)
    """gsde: steps after which each environment's noise matrix is drawn anew; unset: once a rollout."""
    log_std_init: float = 0.0
    """Continuous actions: log of the deviations at the start."""

    def check(self, config: RunConfig) -> None:
        if config.env is None:
            raise ValueError(f"env.id is missing: {self.name} needs an environment")
        samples = self.rollout_steps * config.env.count
        if config.run.steps is None:
            raise ValueError(f"run.steps is missing: the budget of {self.name}, in environment steps")
        if config.run.steps < samples:
            raise ValueError(
                f"run.steps must be at least one rollout, algorithm.rollout_steps * env.count = {samples}, "
                f"got {config.run.steps}"
            )

    def check_spaces(self, config: RunConfig, observation_space: spaces.Box, action_space: spaces.Space) -> None:
        assert config.env is not None
        if self.gsde and not config.network.hidden:
            raise BadInput(
                "network.hidden must have a layer with algorithm.gsde, whose noise is a function of it; got []"
            )
        check_actions(action_space, config.env.id, self.squash, self.gsde)
        if config.network.class_ is None:
            convolves(config.network, observation_space)


class A2CSettings(OnPolicySettings):
    name: Literal["a2c"]
    """Advantage actor-critic."""
    rollout_steps: int = Field(5, ge=1)
    """Steps of each environment between updates (t_max)."""
    gae_lambda: float = Field(1.0, ge=0, le=1)
    """λ of generalised advantage estimation (Schulman et al. 2016): how far ahead an advantage looks before it trusts
    the value estimate. 1, as in the paper: returns up to the end of the rollout, less the value; 0: one step."""
    normalize_advantages: bool = False
    """Centre and scale the advantages of each rollout, over all ranks."""

    def check(self, config: RunConfig) -> None:
        super().check(config)
        if config.optimizer.schedule == "kl_adaptive":
            raise ValueError("optimizer.schedule = 'kl_adaptive' steers steps by their KL divergence: a2c has none")


class PPOSettings(OnPolicySettings):
    name: Literal["ppo"]
    """Proximal policy optimisation."""
    minibatch_size: int = Field(256, ge=1)
    """Samples of a minibatch, over all ranks; a rollout is cut into the whole number of minibatches nearest to it."""
    epochs: int = Field(4, ge=1)
    """Passes over each rollout (K)."""
    clip_range: float = Field(0.2, gt=0)
    """ε: how far the probability ratio is followed."""
    clip_schedule: Literal["constant", "linear"] = "constant"
    """Whether ε stays, or falls to 0 over the run."""
    clip_range_value: float | None = Field(None, gt=0)
    """How far a value estimate may move from the rollout's; unset: as far as the loss says."""
    target_kl: float | None = Field(None, gt=0)
    """Ends a rollout's updates once the KL divergence from the policy that acted exceeds 1.5 times this."""

    def check(self, config: RunConfig) -> None:
        super().check(config)
        assert config.env is not None
        samples = self.rollout_steps * config.env.count
        if self.minibatch_size > samples:
            raise ValueError(
                f"algorithm.minibatch_size must be at most a rollout's samples, rollout_steps * env.count = {samples}, "
                f"got {self.minibatch_size}"
            )
