"""Settings of the algorithms that learn from replay."""

from __future__ import annotations

import math
from typing import Literal

from gymnasium import spaces
from pydantic import Field

from harness.errors import BadInput
from harness.models.spaces import check_bounds, check_discrete, convolves
from harness.schema import AlgorithmSettings, RunConfig

STEPS_OF_AN_ITERATION = 250
"""Environment steps that an iteration has at least, where the budget allows it."""


class OffPolicySettings(AlgorithmSettings):
    buffer_size: int = Field(100_000, ge=1)
    """Transitions that the replay holds, over all ranks: the same number of each environment."""
    learning_starts: int = Field(1_000, ge=0)
    """Environment steps before the first update; at least a minibatch's. Until then actions are random."""
    batch_size: int = Field(64, ge=1)
    """Transitions of a minibatch, over all ranks, taken evenly from all environments."""
    train_freq: int = Field(8, ge=1)
    """Environment steps of a round, over all environments; a multiple of env.count."""
    gradient_steps: int = Field(2, ge=1)
    """Updates of a round."""
    gamma: float = Field(0.99, ge=0, le=1)
    """Discount."""

    def check(self, config: RunConfig) -> None:
        name, env = self.name, config.env
        if env is None:
            raise ValueError(f"env.id is missing: {name} needs an environment")
        for setting in ("normalize_observations", "normalize_rewards"):
            if getattr(env, setting):
                raise ValueError(
                    f"env.{setting} must be false with {name}: what lies in the replay would be normalised by moments "
                    "of long ago"
                )
        if self.train_freq % env.count:
            raise ValueError(
                f"algorithm.train_freq must be a multiple of env.count = {env.count}, got {self.train_freq}"
            )
        if config.optimizer.schedule == "kl_adaptive":
            raise ValueError(f"optimizer.schedule = 'kl_adaptive' steers steps by their KL divergence: {name} has none")
        if config.run.steps is None:
            raise ValueError(f"run.steps is missing: the budget of {name}, in environment steps")
        if config.run.steps < self.train_freq:
            raise ValueError(
                f"run.steps must be at least one round, algorithm.train_freq = {self.train_freq}, "
                f"got {config.run.steps}"
            )
        stored = self.buffer_size // env.count * env.count
        if self.batch_size > stored:
            parts = "" if stored == self.buffer_size else f" in equal parts of env.count = {env.count}: {stored}"
            raise ValueError(
                f"algorithm.batch_size must be at most what is stored, algorithm.buffer_size = {self.buffer_size}"
                f"{parts}, got {self.batch_size}"
            )
        if self.learning_starts > self.buffer_size:
            raise ValueError(
                f"algorithm.learning_starts must be at most algorithm.buffer_size = {self.buffer_size}, "
                f"got {self.learning_starts}"
            )
        setting = max(("batch_size", "learning_starts"), key=lambda name: getattr(self, name))
        collected = self.collected(config.run.steps)
        if getattr(self, setting) >= collected:
            raise ValueError(
                f"algorithm.{setting} must be below the {collected} environment steps that run.steps = "
                f"{config.run.steps} comes to, or nothing is learned; got {getattr(self, setting)}"
            )

    def rounds(self, steps: int) -> int:
        """Of an iteration, where a run is to make so many environment steps."""
        return min(math.ceil(STEPS_OF_AN_ITERATION / self.train_freq), steps // self.train_freq)

    def collected(self, steps: int) -> int:
        """What the whole iterations come to that fit into so many environment steps."""
        iteration = self.rounds(steps) * self.train_freq
        return steps // iteration * iteration

    def for_acting(self) -> AlgorithmSettings:
        return self.model_copy(update={"buffer_size": self.batch_size})


class DQNSettings(OffPolicySettings):
    name: Literal["dqn"]
    """Deep Q-learning."""
    target_update_interval: int = Field(1_000, ge=1)
    """Environment steps, over all environments, between copies of the network to the target network; they are made at
    the end of a round's steps (C of the paper's algorithm 1)."""
    exploration_fraction: float = Field(0.1, ge=0, le=1)
    """Fraction of the run over which ε falls in a straight line."""
    exploration_initial_eps: float = Field(1.0, ge=0, le=1)
    """ε at the start: the probability of a random action."""
    exploration_final_eps: float = Field(0.05, ge=0, le=1)
    """ε from there on."""
    max_grad_norm: float | None = Field(10.0, gt=0)
    """2-norm that the agreed gradient is clipped to."""
    double: bool = False
    """The next action is the one that the network prefers, with the value that the target network gives it."""
    dueling: bool = False
    """A network with a stream for the state's value and one for the actions' advantages."""
    n_steps: int = Field(1, ge=1)
    """Rewards that a target is made of before it bootstraps (n)."""
    prioritized: bool = False
    """Draw transitions in proportion to their last errors, rather than evenly."""
    priority_exponent: float = Field(0.6, ge=0, le=1)
    """α of prioritized replay: 0 draws evenly."""
    importance_exponent: float = Field(0.4, ge=0, le=1)
    """β of prioritized replay at the start; it rises to 1 over the run."""
    quantiles: int = Field(0, ge=0)
    """Quantiles of the return that QR-DQN learns for each action (N); 0: its mean alone, as in DQN."""

    def check(self, config: RunConfig) -> None:
        super().check(config)
        assert config.env is not None
        if self.dueling and config.network.class_ is not None:
            raise ValueError("algorithm.dueling must be false with network.class, whose streams are its own")
        if self.dueling and not config.network.hidden:
            raise ValueError("network.hidden must have a layer with algorithm.dueling, got []")
        least = config.env.count * 2 * self.n_steps
        if self.buffer_size < least:
            raise ValueError(
                f"algorithm.buffer_size must be at least 2 * n_steps * env.count = {least}, got {self.buffer_size}"
            )
        assert config.run.steps is not None
        collected = self.collected(config.run.steps)
        if least > collected:
            raise ValueError(
                f"algorithm.n_steps must be at most {collected // (2 * config.env.count)}, or run.steps = "
                f"{config.run.steps} is over before anything is learned; got {self.n_steps}"
            )

    def check_spaces(self, config: RunConfig, observation_space: spaces.Box, action_space: spaces.Space) -> None:
        assert config.env is not None
        check_discrete(action_space, config.env.id, self.name)
        if config.network.class_ is None:
            convolves(config.network, observation_space)


class ContinuousSettings(OffPolicySettings):
    buffer_size: int = Field(1_000_000, ge=1)
    """Transitions that the replay holds, over all ranks: the same number of each environment."""
    learning_starts: int = Field(100, ge=0)
    """Environment steps before the first update; at least a minibatch's. Until then actions are random."""
    batch_size: int = Field(256, ge=1)
    """Transitions of a minibatch, over all ranks, taken evenly from all environments."""
    train_freq: int = Field(8, ge=1)
    """Environment steps of a round, over all environments; a multiple of env.count."""
    gradient_steps: int = Field(8, ge=1)
    """Updates of a round."""
    tau: float = Field(0.005, gt=0, le=1)
    """τ: how far an update of the target networks takes them to the networks that are learned."""

    def check(self, config: RunConfig) -> None:
        super().check(config)
        if config.network.class_ is not None:
            raise ValueError(
                f"network.class must be absent with {self.name}, whose networks are an actor and two critics"
            )
        if config.network.kind == "cnn":
            raise ValueError(f"network.kind must be auto or mlp with {self.name}, got 'cnn'")

    def check_spaces(self, config: RunConfig, observation_space: spaces.Box, action_space: spaces.Space) -> None:
        assert config.env is not None
        where = f"env.id = {config.env.id!r}"
        if not isinstance(action_space, spaces.Box):
            raise BadInput(f"{where} has {action_space} actions; with {self.name} they must be a Box")
        check_bounds(action_space, config.env.id, self.name)
        if convolves(config.network, observation_space):
            raise BadInput(f"{where} has images, which {self.name} takes as vectors alone, with network.kind = 'mlp'")


class SACSettings(ContinuousSettings):
    name: Literal["sac"]
    """Soft actor-critic."""
    temperature: float | None = Field(None, gt=0)
    """α, what the policy's entropy counts; unset: learned, so that the entropy is `target_entropy`."""
    initial_temperature: float = Field(1.0, gt=0)
    """α at the start where it is learned."""
    target_entropy: float | None = None
    """The entropy, in nats, that the temperature is learned for; unset: -1 for each dimension of an action."""
    target_update_interval: int = Field(1, ge=1)
    """Updates between those of the target networks."""
    gsde: bool = False
    """State-dependent exploration, whose noise is a function of the state's features."""
    sde_sample_freq: int | None = Field(None, ge=1)
    """gsde: steps after which each environment's noise matrix is drawn anew; unset: once a round."""
    log_std_init: float = -3.0
    """gsde: log of the noise's deviations at the start."""

    def check(self, config: RunConfig) -> None:
        super().check(config)
        if self.gsde and not config.network.hidden:
            raise ValueError("network.hidden must have a layer with algorithm.gsde, got []")


class TD3Settings(ContinuousSettings):
    name: Literal["td3"]
    """Twin delayed deep deterministic policy gradient."""
    policy_delay: int = Field(2, ge=1)
    """Updates of the critics to one of the actor and the target networks (d)."""
    target_policy_noise: float = Field(0.2, ge=0)
    """Deviation of the noise on the target's actions, which lie in [-1, 1] (σ~)."""
    target_noise_clip: float = Field(0.5, ge=0)
    """What that noise is clipped to (c)."""
    action_noise: float = Field(0.1, ge=0)
    """Deviation of the normal noise that explores, on actions in [-1, 1] (σ)."""
