"""Proximal policy optimisation (Schulman et al. 2017), with the clipped surrogate of its equation 7.

N ranks are the same experiment as one: environments, action noise and minibatches follow from the seed and from global
indices; advantages are normalised over all ranks, gradients weighted by sample counts and clipped after they are
agreed, and the KL stop looks at the KL of all ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from pydantic import Field

from harness.algorithms.acting import Actor, make_actor
from harness.algorithms.base import Algorithm, AlgorithmSettings, Context, Evaluation, Iteration
from harness.algorithms.device_actor import DeviceActor
from harness.algorithms.memory import EpisodeAccount, Rollout, minibatch_indices
from harness.algorithms.networks import ActorCritic, make_actor_critic
from harness.algorithms.randomness import generator
from harness.errors import Diverged
from harness.settings import named_object
from harness.training.captured import DeviceSteps
from harness.training.compiled import MOST_SIZES, CompiledGradient, compile_in_turn, sizes_of, wants_compiling
from harness.training.optimizers import LearningRate, load_in_place, make_optimizer
from harness.training.precision import Precision
from harness.training.trainer import Step
from harness.training.updates import HostSteps, KlStop, Minibatch, Steps

if TYPE_CHECKING:
    from harness.config import RunConfig

STATISTICS = ("loss", "policy_loss", "value_loss", "entropy", "kl", "clip_fraction")
DATA = ("observations", "actions", "log_probs", "values", "advantages", "returns")
"""What a minibatch has of each of its samples, by its name in the rollout."""
NUMBERS = ("clip", "centre", "scale")
"""What it has beside them: ε, and what centres and scales its advantages."""


class PPOSettings(AlgorithmSettings):
    name: Literal["ppo"]
    """Proximal policy optimisation."""
    rollout_steps: int = Field(128, ge=1)
    """Steps of each environment between updates (T)."""
    minibatch_size: int = Field(256, ge=1)
    """Samples of a minibatch, over all ranks; a rollout is cut into the whole number of minibatches nearest to it."""
    epochs: int = Field(4, ge=1)
    """Passes over each rollout (K)."""
    gamma: float = Field(0.99, ge=0, le=1)
    """Discount."""
    gae_lambda: float = Field(0.95, ge=0, le=1)
    """λ of generalised advantage estimation."""
    clip_range: float = Field(0.2, gt=0)
    """ε: how far the probability ratio is followed."""
    clip_schedule: Literal["constant", "linear"] = "constant"
    """Whether ε stays, or falls to 0 over the run."""
    clip_range_value: float | None = Field(None, gt=0)
    """How far a value estimate may move from the rollout's; unset: as far as the loss says."""
    normalize_advantages: bool = True
    """Centre and scale the advantages of each minibatch, over all ranks."""
    entropy_coefficient: float = Field(0.0, ge=0)
    """c2 of equation 9."""
    value_coefficient: float = Field(0.5, ge=0)
    """c1 of equation 9."""
    max_grad_norm: float | None = Field(0.5, gt=0)
    """2-norm that the agreed gradient is clipped to."""
    target_kl: float | None = Field(None, gt=0)
    """Ends a rollout's updates once the KL divergence from the policy that acted exceeds 1.5 times this."""

    def check(self, config: RunConfig) -> None:
        if config.env is None:
            raise ValueError("env.id is missing: ppo needs an environment")
        samples = self.rollout_steps * config.env.count
        if self.minibatch_size > samples:
            raise ValueError(
                f"algorithm.minibatch_size must be at most a rollout's samples, rollout_steps * env.count = {samples}, "
                f"got {self.minibatch_size}"
            )
        if config.run.steps is None:
            raise ValueError("run.steps is missing: the budget of ppo, in environment steps")
        if config.run.steps < samples:
            raise ValueError(
                f"run.steps must be at least one rollout, algorithm.rollout_steps * env.count = {samples}, "
                f"got {config.run.steps}"
            )


class PPO(Algorithm):
    Settings = PPOSettings

    def __init__(self, context: Context) -> None:
        config, settings = context.config, context.config.algorithm
        assert isinstance(settings, PPOSettings) and config.env is not None and context.environments is not None
        self.context, self.config, self.settings = context, config, settings
        self.collectives, self.device, self.envs = context.collectives, context.device, context.environments
        share = self.envs.share
        self.samples = settings.rollout_steps * share.total
        self.env_steps_per_iteration = self.samples
        assert config.run.steps is not None
        self.iterations = config.run.steps // self.samples
        self.minibatches = max(1, round(self.samples / settings.minibatch_size))

        torch.manual_seed(config.seed)
        self.module = self.network(config, self.envs.observation_space, self.envs.action_space).to(self.device)
        # Dropout, and BatchNorm by its batch, would make the probability ratio compare two different networks, and the
        # deterministic policy none: the network stays in evaluation mode throughout.
        self.module.eval()
        self.head = self.module.head
        self.precision = Precision(config.precision, self.device)
        self.step = Step(
            self.module,
            lambda arena: make_optimizer(config.optimizer, [arena.flat], capturable=self.device.type == "cuda"),
            self.collectives,
            self.precision,
            statistics=len(STATISTICS),
            max_grad_norm=settings.max_grad_norm,
        )
        self.learning_rate = LearningRate(config.optimizer, self.step.optimizer, self.samples // self.minibatches)

        example = self.head.sample(
            torch.zeros(1, self.head.parameter_count, device=self.device),
            torch.zeros(1, *self.head.noise_shape, device=self.device),
        )
        shape, dtype = self.envs.observation_space.shape, self.envs.observation_dtype
        self.rollout = Rollout(settings.rollout_steps, share.count, shape, dtype, example[0].detach().cpu().numpy())
        self.iteration = 0
        """The next one."""
        self.observations = self.envs.reset(config.seed)
        if self.device.type == "cuda":
            self.rollout.pin(DATA)
        self.data = {name: self.rollout.flat(name).to(self.device) for name in DATA}
        self.sizes = sizes_of([self.minibatch_plan(0, 0)[0]])
        self.compiled, self.compile_reason = self.compile(context)
        self.steps = self.make_steps(on_device=self.device.type != "cpu")
        self.episodes = EpisodeAccount(share.count)
        self.actor: Actor = make_actor(self.module, self.device)
        if self.device.type != "cpu":
            capture = config.compile.capture
            self.actor = DeviceActor(self.module, self.device, self.precision, self.rollout, self.envs.groups, capture)

    @staticmethod
    def network(config: RunConfig, observation_space: spaces.Box, action_space: spaces.Space) -> ActorCritic:
        assert config.env is not None
        user_class = named_object(config.network.class_, "network.class") if config.network.class_ else None
        return make_actor_critic(config.network, observation_space, action_space, config.env, user_class)

    def compile(self, context: Context) -> tuple[CompiledGradient | None, str]:
        """Rank 0 decides whether; (None, the reason) where the gradient stays eager."""
        steps = self.iterations * self.settings.epochs * self.minibatches
        wanted = wants_compiling(context.config.compile, steps, self.device)
        wanted, reason = context.collectives.broadcast_object(wanted)
        if not wanted:
            return None, reason
        if max(context.collectives.gather_objects(len(self.sizes))) > MOST_SIZES:
            return None, "minibatches of too many different sizes"
        parts = (self.module, self.step.arena, self.loss, self.precision, self.data, NUMBERS, self.sizes)
        compiled, problem = compile_in_turn(lambda: CompiledGradient(*parts), context.collectives)
        if compiled is not None:
            self.step.reduce_at_once()
        return compiled, problem or reason

    def make_steps(self, on_device: bool) -> Steps:
        """What takes the steps: decided by the host, which reads what it needs for it, or on the device."""
        limit = None if self.settings.target_kl is None else 1.5 * self.settings.target_kl
        stop = KlStop(STATISTICS.index("kl"), limit)
        if not on_device:
            return HostSteps(self.step, self.gradient, stop)
        capture = self.config.compile.capture
        return DeviceSteps(self.step, self.loss, self.data, NUMBERS, self.sizes, stop, self.compiled, capture)

    def remarks(self) -> list[str]:
        gradient = f"gradient {'eager' if self.compiled is None else 'compiled'} ({self.compile_reason})"
        return [remark for remark in (gradient, self.steps.remark, self.actor.remark) if remark]

    @classmethod
    def check(cls, config: RunConfig, observation_space: spaces.Box, action_space: spaces.Space) -> None:
        cls.network(config, observation_space, action_space)

    # -- one iteration -------------------------------------------------------------------------------------------------

    def iterate(self, iteration: int) -> Iteration:
        phases, collectives = self.context.phases, self.collectives
        episodes = self.collect(iteration)
        phases.start("agree")
        agreed = collectives.agree(episodes)
        if agreed["non_finite_rewards"]:
            raise Diverged("non-finite reward from the environment")
        self.envs.take_in(collectives)
        metrics = self.update(iteration)
        self.learning_rate.on_metric("kl", metrics["kl"])
        if agreed["episodes"]:
            metrics["episodes"] = agreed["episodes"]
            metrics["return_mean"] = agreed["returns"] / agreed["episodes"]
            metrics["length_mean"] = agreed["lengths"] / agreed["episodes"]
        metrics["lr"] = self.learning_rate.value
        self.iteration = iteration + 1
        return Iteration(self.samples, int(metrics.pop("gradient_steps")), metrics)

    def collect(self, iteration: int) -> dict[str, float]:
        """Fills the rollout; returns this rank's sums over the episodes that ended, to be agreed.

        Where environments step in groups, one group steps while the policy acts for another.
        """
        rollout, phases, envs = self.rollout, self.context.phases, self.envs
        cut: list[tuple[int, np.ndarray, np.ndarray]] = []  # (step, which environments, their last observations)
        skipped: list[tuple[int, int]] = []  # (step, environment) where it only began an episode
        lives: list[tuple[int, int]] = []  # (step, environment) where a life was lost and the game goes on
        self.actor.begin(rollout, self.action_noise(iteration)[:, envs.share.slice])
        for group, rows in enumerate(envs.groups):
            self.act(0, group, self.observations[rows])
        for step in range(rollout.steps):
            for group, rows in enumerate(envs.groups):
                phases.start("environment")
                result = envs.receive(group)
                phases.start("store")
                rollout.rewards[step, rows] = result.rewards
                rollout.true_rewards[step, rows] = result.true_rewards
                np.logical_or(result.terminated, result.truncated, out=rollout.dones[step, rows])
                if result.final_observations is not None:
                    only_cut = result.truncated & ~result.terminated
                    if only_cut.any():
                        ended = np.flatnonzero(only_cut)
                        cut.append((step, rows.start + ended, result.final_observations[ended]))
                if result.valid is not None:
                    skipped += [(step, rows.start + env) for env in np.flatnonzero(~result.valid)]
                if result.lives_lost is not None:
                    lives += [(step, rows.start + env) for env in np.flatnonzero(result.lives_lost)]
                if step + 1 < rollout.steps:
                    self.act(step + 1, group, result.observations)
                elif len(envs.groups) == 1:
                    self.observations = result.observations
                else:
                    self.observations[rows] = result.observations
        phases.start("advantages")
        self.actor.finish()
        self.bootstrap_time_limits(cut)
        rollout.compute_advantages(self.values(self.observations), self.settings.gamma, self.settings.gae_lambda)
        rollout.replace(skipped)
        return self.episodes.take_in(rollout.true_rewards, rollout.dones, lives)

    def act(self, step: int, group: int, observations: np.ndarray) -> None:
        """Sends a group of environments into their step number `step`."""
        phases, rows = self.context.phases, self.envs.groups[group]
        phases.start("act")
        actions = self.actor.act(step, observations, rows)
        phases.start("environment")
        self.envs.send(self.head.for_environment(actions), group)
        phases.start("store")
        self.rollout.observations[step, rows] = observations

    def bootstrap_time_limits(self, cut: list[tuple[int, np.ndarray, np.ndarray]]) -> None:
        """Adds what followed a time limit to the last reward: γ V(last observation) (Pardo et al. 2018, equation 6)."""
        if not cut:
            return
        values = self.values(np.concatenate([observations for _, _, observations in cut]))
        at = 0
        for step, envs, _ in cut:
            self.rollout.rewards[step, envs] += self.settings.gamma * values[at : at + len(envs)]
            at += len(envs)

    def update(self, iteration: int) -> dict[str, float]:
        """K epochs of minibatches; means of the statistics over them (those before a stop on KL), over all ranks."""
        settings, phases = self.settings, self.context.phases
        clip = settings.clip_range
        if settings.clip_schedule == "linear":
            clip *= 1.0 - iteration / self.iterations
        plan = [self.minibatch_plan(iteration, epoch) for epoch in range(settings.epochs)]
        centres, scales = self.advantage_moments([parts for parts, _ in plan])
        self.to_device()
        minibatches = [
            Minibatch(part, (clip, centres[epoch, number], scales[epoch, number]), len(part) / counts[number])
            for epoch, (parts, counts) in enumerate(plan)
            for number, part in enumerate(parts)
        ]
        steps = self.steps
        steps.begin(minibatches, epoch=self.minibatches)
        for number in range(len(minibatches)):
            phases.start("gradient")
            self.learning_rate.on_progress((iteration + number / len(minibatches)) / self.iterations)
            steps.gradient(number)
            phases.start("reduce")
            self.step.reduce()
            phases.start("optimizer")
            if not steps.apply(number):
                break
        done = steps.finish()
        phases.start("rest")
        metrics = dict(zip(STATISTICS, done.means))
        if done.stopped:
            self.learning_rate.on_progress((iteration + done.batches / len(minibatches)) / self.iterations)
            metrics["kl"] = metrics["kl"] if done.batches else done.kl
        metrics["explained_variance"] = self.explained_variance
        return {**metrics, "clip_range": clip, "gradient_steps": done.taken}

    def gradient(self, part: np.ndarray, numbers: tuple[float, float, float], weight: float) -> None:
        """Fills the arena with this rank's share of a minibatch's gradient; `numbers` in the order of NUMBERS."""
        rows = torch.from_numpy(part).to(self.device)
        if self.compiled is not None and len(part):
            self.compiled(rows, numbers, weight)
        elif len(part):
            batch = {name: values[rows] for name, values in self.data.items()}
            batch |= {name: torch.tensor(number, device=self.device) for name, number in zip(NUMBERS, numbers)}
            self.step.fill(lambda: self.loss(batch), weight)
        else:
            self.step.fill(None, 0.0)

    def to_device(self) -> None:
        """The rollout where minibatches are drawn from it: on the CPU that is the rollout itself.

        Elsewhere copies may still be under way on return; it is written again when the host has waited for the updates.
        """
        for name, values in self.data.items():
            if values.device.type != "cpu":
                values.copy_(self.rollout.flat(name), non_blocking=True)

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
        loss = policy_loss + settings.value_coefficient * value_loss - settings.entropy_coefficient * entropy
        with torch.no_grad():
            kl = (ratio - 1.0 - log_ratio).mean()  # http://joschu.net/blog/kl-approx.html, k3
            clip_fraction = ((ratio - 1.0).abs() > clip).float().mean()
            statistics = torch.stack([loss, policy_loss, value_loss, entropy, kl, clip_fraction])
        return loss, statistics

    # -- what the ranks share out --------------------------------------------------------------------------------------

    def action_noise(self, iteration: int) -> np.ndarray:
        """float32 (steps, total envs, *noise_shape): drawn whole on every rank, which uses its own columns."""
        draw = generator(self.config.seed, "actions", iteration)
        shape = (self.rollout.steps, self.envs.share.total, *self.head.noise_shape)
        if self.head.noise == "uniform":
            return draw.random(shape, dtype=np.float32)
        return draw.standard_normal(shape, dtype=np.float32)

    def minibatch_plan(self, iteration: int, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        share = self.envs.share
        keys = generator(self.config.seed, "minibatches", iteration, epoch).random((share.total, self.rollout.steps))
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
            sums[row] = len(part), chosen.sum(), np.square(chosen).sum()
        for row, array in ((-2, returns), (-1, returns - values)):
            sums[row] = array.size, array.sum(), np.square(array).sum()
        count, first, second = self.collectives.all_reduce_(torch.from_numpy(sums), name="advantages").numpy().T
        means = first / count
        squares = np.maximum(second - count * np.square(means), 0.0)  # sums of squared deviations
        self.explained_variance = float(1.0 - squares[-1] / squares[-2]) if squares[-2] > 0 else float("nan")
        deviations = np.sqrt(squares / np.maximum(count - 1, 1)) + 1e-8
        shape = (len(plan), self.minibatches)
        return means[:-2].reshape(shape).astype(np.float32), deviations[:-2].reshape(shape).astype(np.float32)

    # -- the policy ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def values(self, observations: np.ndarray) -> np.ndarray:
        return self.module(torch.from_numpy(observations).to(self.device))[1].cpu().numpy()

    @torch.no_grad()
    def act_best(self, observations: np.ndarray) -> np.ndarray:
        parameters, _ = self.module(torch.from_numpy(observations).to(self.device))
        return self.head.for_environment(self.head.mode(parameters).cpu().numpy())

    def evaluate(self, episodes: int, final: bool = False) -> Evaluation:
        return Evaluation(self.context.play(self.act_best, episodes, final))

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.learning_rate.on_metric("eval_return_mean", evaluation.mean)

    # -- state ---------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "optimizer": self.step.optimizer.state_dict(),
            "learning_rate": self.learning_rate.state_dict(),
            "precision": self.precision.state(),
            "environments": self.envs.state(),
            "iteration": self.iteration,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        load_in_place(self.step.optimizer, state["optimizer"])
        self.learning_rate.load_state_dict(state["learning_rate"])
        self.precision.load_state(state["precision"])
        self.envs.load_state(state["environments"])
        self.iteration = int(state["iteration"])
        self.observations = self.envs.reset(self.config.seed, self.iteration)

    def close(self) -> None:
        self.envs.close()
