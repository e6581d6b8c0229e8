"""What algorithms that learn from each rollout once it is made have in common: collecting it, its advantages, and how
ranks share them.

N ranks are the same experiment as one: environments, action noise and minibatches follow from the seed and from global
indices, advantages are normalised over all ranks, and gradients are weighted by sample counts and clipped after they
are agreed.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces

from harness.acting.actors import Actor, make_actor
from harness.acting.device_actor import DeviceActor
from harness.algorithms.base import Algorithm, Context, Evaluation, Iteration
from harness.algorithms.settings.on_policy import OnPolicySettings
from harness.buffers import EpisodeAccount, Rollout, minibatch_indices
from harness.distributed.agreement import fault_of_ranks
from harness.envs.evaluation import Noise
from harness.envs.faults import fault_in_observation, fault_in_reward, is_finite
from harness.errors import Diverged
from harness.models.action_heads import HeadOptions
from harness.models.actor_critic import ActorCritic, make_actor_critic
from harness.models.probing import network_remarks
from harness.randomness import generator
from harness.settings import named_object
from harness.training.compile.device_updates import DeviceUpdateLoop
from harness.training.compile.gradient import MOST_SIZES, CompiledGradient, compile_step, sizes_of, wants_compiling
from harness.training.optimizers import load_in_place, make_optimizer
from harness.training.precision import Precision
from harness.training.schedules import LearningRate
from harness.training.step import Step
from harness.training.updates import HostUpdateLoop, KlStop, Minibatch, UpdateLoop, UpdateSummary

if TYPE_CHECKING:
    from harness.schema import RunConfig

DATA = ("observations", "actions", "log_probs", "values", "advantages", "returns")
"""What a minibatch has of each of its samples, by its name in the rollout."""


class OnPolicy(Algorithm):
    """A subclass says what it makes of a rollout: `update`, and the `loss` of a minibatch."""

    STATISTICS: ClassVar[tuple[str, ...]]
    """What is told of each step, the loss first."""
    NUMBERS: ClassVar[tuple[str, ...]]
    """What a minibatch has beside its samples."""
    settings: OnPolicySettings
    module: ActorCritic

    def __init__(
        self, context: Context, epochs: int, minibatches: int, kl_limit: float | None = None, rollouts: int = 1
    ) -> None:
        """`epochs`: passes over a rollout; `minibatches` of each. `kl_limit`: what the statistic `kl` may be before a
        rollout's updates end. `rollouts`: of an iteration."""
        config, settings = context.config, context.config.algorithm
        assert isinstance(settings, OnPolicySettings) and config.env is not None and context.environments is not None
        self.context, self.config = context, config
        self.communicator, self.device, self.envs = context.communicator, context.device, context.environments
        share = self.envs.share
        self.samples = settings.rollout_steps * share.total
        assert config.run.steps is not None
        self.rollouts = min(rollouts, config.run.steps // self.samples)
        self.env_steps_per_iteration = self.samples * self.rollouts
        self.iterations = config.run.steps // self.env_steps_per_iteration
        self.epochs, self.minibatches, self.kl_limit = epochs, minibatches, kl_limit

        torch.manual_seed(config.seed)
        self.module = self.network(config, self.envs.observation_space, self.envs.action_space).to(self.device)
        # Dropout, and BatchNorm by its batch, would make the probability ratio compare two different networks, and the
        # deterministic policy none: the network stays in evaluation mode throughout.
        self.module.eval()
        self.own = config.network.class_ is not None
        self.restless = [self.module] if self.module.changed else []
        context.settle_threads(self.module)
        self.head = self.module.head
        self.precision = Precision(config.precision, self.device)
        self.step = Step(
            self.module,
            lambda arena: make_optimizer(config.optimizer, [arena.flat], capturable=self.device.type == "cuda"),
            self.communicator,
            self.precision,
            statistics=len(self.STATISTICS),
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
        self.fault: str | None = None
        """What is wrong with what an environment of this rank gave, in words."""
        self.observations = self.envs.reset(config.seed)
        if self.device.type == "cuda":
            self.rollout.pin(DATA)
        self.data = {name: self.rollout.flat(name).to(self.device) for name in DATA}
        self.sizes = sizes_of([self.minibatch_plan(0, 0)[0]])
        self.compiled, self.compile_reason = self.compile(context)
        self.steps = self.make_steps(on_device=self.device.type != "cpu")
        self.episodes = EpisodeAccount(share.count, self.envs.settings.info_metrics)
        self.actor: Actor = make_actor(self.module, self.device, self.precision)
        if self.device.type != "cpu":
            capture = config.compile.capture
            self.actor = DeviceActor(self.module, self.device, self.precision, self.rollout, self.envs.groups, capture)

    @staticmethod
    def network(config: RunConfig, observation_space: spaces.Box, action_space: spaces.Space) -> ActorCritic:
        assert config.env is not None
        user_class = named_object(config.network.class_, "network.class") if config.network.class_ else None
        settings = config.algorithm
        assert isinstance(settings, OnPolicySettings)
        options = HeadOptions(settings.squash, settings.gsde, settings.log_std_init)
        return make_actor_critic(config.network, observation_space, action_space, config.env, user_class, options)

    def compile(self, context: Context) -> tuple[CompiledGradient | None, str]:
        """Rank 0 decides whether; (None, the reason) where the gradient stays eager."""
        steps = self.iterations * self.rollouts * self.epochs * self.minibatches
        if self.restless:
            return None, "network.class changes its buffers whenever it is called"
        wanted = wants_compiling(context.config.compile, steps, self.step)
        wanted, reason = context.communicator.broadcast_object(wanted)
        if not wanted:
            return None, reason
        if max(context.communicator.gather_objects(len(self.sizes))) > MOST_SIZES:
            return None, "minibatches of too many different sizes"
        parts = (self.module, self.step.arena, self.loss, self.precision, self.data, self.NUMBERS, self.sizes)
        compiled, problem = compile_step(
            self.step, lambda products: CompiledGradient(*parts, products=products), context.config.compile.products
        )
        return compiled, problem or reason

    def make_steps(self, on_device: bool) -> UpdateLoop:
        """What takes the steps: decided by the host, which reads what it needs for it, or on the device."""
        stop = KlStop(0 if self.kl_limit is None else self.STATISTICS.index("kl"), self.kl_limit)
        if not on_device:
            return HostUpdateLoop(self.step, self.gradient, stop)
        capture = self.config.compile.capture
        return DeviceUpdateLoop(self.step, self.loss, self.data, self.NUMBERS, self.sizes, stop, self.compiled, capture)

    def notices(self) -> list[str]:
        gradient = f"gradient {'eager' if self.compiled is None else 'compiled'} ({self.compile_reason})"
        of_network = network_remarks(self.module.network, self.settings.name, self.module.changed) if self.own else []
        return [notice for notice in (gradient, self.steps.notice, self.actor.notice, *of_network) if notice]

    @classmethod
    def check(cls, config: RunConfig, observation_space: spaces.Box, action_space: spaces.Space) -> None:
        cls.network(config, observation_space, action_space)

    # -- one iteration -------------------------------------------------------------------------------------------------

    def iterate(self, iteration: int) -> Iteration:
        phases, communicator = self.context.phases, self.communicator
        sums: dict[str, float] = {}
        means: dict[str, float] = {}
        steps = 0
        for number in range(iteration * self.rollouts, (iteration + 1) * self.rollouts):
            episodes = self.collect(number)
            sums = {name: sums.get(name, 0.0) + value for name, value in episodes.items()}
            phases.start("agree")
            if (number + 1) % self.rollouts == 0:
                agreed = communicator.agree({**sums, "faults": float(self.fault is not None)})
                if agreed["faults"] and (fault := fault_of_ranks(self.fault, communicator)) is not None:
                    raise fault
            self.envs.merge(communicator)
            try:
                metrics = self.update(number)
            except Diverged:  # on all ranks alike
                if (fault := fault_of_ranks(self.fault, communicator)) is not None:
                    raise fault from None
                raise
            if "kl" in metrics:
                self.learning_rate.on_metric("kl", metrics["kl"])
            steps += int(metrics.pop("gradient_steps"))
            means = {name: means.get(name, 0.0) + value / self.rollouts for name, value in metrics.items()}
        means.update(self.episodes.means(agreed))
        means["lr"] = self.learning_rate.value
        self.iteration = iteration + 1
        return Iteration(self.env_steps_per_iteration, steps, means)

    def collect(self, number: int) -> dict[str, float]:
        """Makes rollout number `number` of the run; returns this rank's sums over the episodes that ended, to be agreed
        on.

        Where environments step in groups, one group steps while the policy acts for another.
        """
        rollout, phases, envs = self.rollout, self.context.phases, self.envs
        cut: list[tuple[int, np.ndarray, np.ndarray]] = []  # (step, which environments, their last observations)
        skipped: list[tuple[int, int]] = []  # (step, environment) where it only began an episode
        lives: list[tuple[int, int]] = []  # (step, environment) where a life was lost and the game goes on
        self.actor.begin(rollout, self.action_noise(number)[:, envs.share.slice])
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
                if result.info_metrics is not None:
                    self.episodes.note(result)
                if step + 1 < rollout.steps:
                    self.act(step + 1, group, result.observations)
                elif len(envs.groups) == 1:
                    self.observations = result.observations
                else:
                    self.observations[rows] = result.observations
        phases.start("advantages")
        self.actor.finish()
        self.fault = self.fault or self.find_fault(number, cut)
        last_values = self.bootstrap(cut)
        rollout.compute_advantages(last_values, self.settings.gamma, self.settings.gae_lambda)
        rollout.replace(skipped)
        if self.fault is not None:  # a loss that is none ends the updates of all ranks, where they do not agree before
            rollout.returns[:] = rollout.advantages[:] = np.nan
        return self.episodes.merge(rollout.true_rewards, rollout.dones, lives)

    def find_fault(self, number: int, cut: list[tuple[int, np.ndarray, np.ndarray]]) -> str | None:
        """What is wrong with what this rank's environments gave in rollout number `number`, if anything."""
        rollout, first = self.rollout, self.envs.share.first
        before = number * rollout.steps
        if not is_finite(rollout.true_rewards):
            return fault_in_reward(rollout.true_rewards, first, before + 1)
        seen: list[np.ndarray] = []
        if self.envs.moments is None:
            if not (is_finite(rollout.observations) and is_finite(self.observations)):
                seen = [*rollout.observations, self.observations]
        elif not is_finite(np.concatenate(self.envs.seen)):  # normalised and clipped, they would look as if they were
            seen = self.envs.seen_in_steps(rollout.steps)
        for after, observations in enumerate(seen, start=before + rollout.steps + 1 - len(seen)):
            if not is_finite(observations):
                return fault_in_observation(observations, first, after)
        for step, envs, observations in cut:
            if not is_finite(observations):
                row = int(np.flatnonzero(~np.isfinite(observations).reshape(len(envs), -1).all(1))[0])
                return fault_in_observation(observations[row : row + 1], first + int(envs[row]), before + step + 1)
        return None

    def act(self, step: int, group: int, observations: np.ndarray) -> None:
        """Sends a group of environments into their step number `step`."""
        phases, rows = self.context.phases, self.envs.groups[group]
        phases.start("act")
        actions = self.actor.act(step, observations, rows)
        phases.start("environment")
        self.envs.send(self.head.for_environment(actions), group)
        phases.start("store")
        self.rollout.observations[step, rows] = observations

    def bootstrap(self, cut: list[tuple[int, np.ndarray, np.ndarray]]) -> np.ndarray:
        """The values of the observations after the last step, float32 (envs,). To the reward before each time limit it
        adds what followed: γ V(last observation) (Pardo et al. 2018, equation 6)."""
        if not cut:
            return self.values(self.observations)
        values = self.values(np.concatenate([self.observations, *(observations for _, _, observations in cut)]))
        at = len(self.observations)
        for step, envs, _ in cut:
            self.rollout.rewards[step, envs] += self.settings.gamma * values[at : at + len(envs)]
            at += len(envs)
        return values[: len(self.observations)]

    def update_on(self, rollout: int, minibatches: list[Minibatch]) -> UpdateSummary:
        """The updates of rollout number `rollout`, one for each minibatch."""
        phases, steps = self.context.phases, self.steps
        self.to_device()
        rollouts = self.iterations * self.rollouts
        steps.begin(minibatches, epoch=self.minibatches)
        for number in range(len(minibatches)):
            phases.start("gradient")
            self.learning_rate.on_progress((rollout + number / len(minibatches)) / rollouts)
            steps.gradient(number)
            phases.start("reduce")
            self.step.reduce()
            phases.start("optimizer")
            if not steps.apply(number):
                break
        done = steps.finish()
        if done.stopped:
            self.learning_rate.on_progress((rollout + done.batches / len(minibatches)) / rollouts)
        phases.start("rest")
        return done

    def gradient(self, part: np.ndarray, numbers: tuple[float, ...], weight: float) -> None:
        """Fills the arena with this rank's share of a minibatch's gradient; `numbers` in the order of NUMBERS."""
        rows = torch.from_numpy(part).to(self.device)
        if self.compiled is not None and len(part):
            self.compiled(rows, numbers, weight)
        elif len(part):
            batch = {name: values[rows] for name, values in self.data.items()}
            batch |= {name: torch.tensor(number, device=self.device) for name, number in zip(self.NUMBERS, numbers)}
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

    # -- what a subclass says ------------------------------------------------------------------------------------------

    @abstractmethod
    def update(self, rollout: int) -> dict[str, float]:
        """Learns from rollout number `rollout`: its metrics, of all ranks, and `gradient_steps`, the steps taken."""

    @abstractmethod
    def loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss over this rank's samples, and the statistics in the order of STATISTICS."""

    # -- what the ranks share out --------------------------------------------------------------------------------------

    def action_noise(self, rollout: int) -> np.ndarray:
        """float32 (steps, total envs, *noise_shape): drawn whole on every rank, which uses its own columns."""
        draw = generator(self.config.seed, "actions", rollout)
        steps, total, each = self.rollout.steps, self.envs.share.total, self.head.noise_shape
        if self.head.noise == "uniform":
            return draw.random((steps, total, *each), dtype=np.float32)
        if not self.settings.gsde:
            return draw.standard_normal((steps, total, *each), dtype=np.float32)
        held = self.settings.sde_sample_freq or steps
        drawn = draw.standard_normal((-(-steps // held), total, *each), dtype=np.float32)
        return np.repeat(drawn, held, axis=0)[:steps]

    def minibatch_plan(self, rollout: int, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        share = self.envs.share
        keys = generator(self.config.seed, "minibatches", rollout, epoch).random((share.total, self.rollout.steps))
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
            sums[row] = len(part), chosen.sum(), chosen @ chosen
        for row, array in ((-2, returns), (-1, returns - values)):
            sums[row] = array.size, array.sum(), np.square(array).sum()
        count, first, second = self.communicator.all_reduce_(torch.from_numpy(sums), name="advantages").numpy().T
        several = count > 1
        means = np.where(several, first / count, 0.0)  # a sample alone is not normalised: it would always be 0
        squares = np.maximum(second - count * np.square(first / count), 0.0)  # sums of squared deviations
        self.explained_variance = float(1.0 - squares[-1] / squares[-2]) if squares[-2] > 0 else float("nan")
        deviations = np.where(several, np.sqrt(squares / np.maximum(count - 1, 1)) + 1e-8, 1.0)
        shape = (len(plan), self.minibatches)
        return means[:-2].reshape(shape).astype(np.float32), deviations[:-2].reshape(shape).astype(np.float32)

    # -- the policy ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def values(self, observations: np.ndarray) -> np.ndarray:
        return self.module(torch.from_numpy(observations).to(self.device))[1].cpu().numpy()

    @torch.no_grad()
    def act_deterministic(self, observations: np.ndarray) -> np.ndarray:
        parameters, _ = self.module(torch.from_numpy(observations).to(self.device))
        return self.head.for_environment(self.head.mode(parameters).cpu().numpy())

    @property
    def drawn_from(self) -> Noise:
        return Noise(self.head.noise, self.head.noise_shape, self.settings.sde_sample_freq if self.settings.gsde else 1)

    @torch.no_grad()
    def act_sampled(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        parameters, _ = self.module(torch.from_numpy(observations).to(self.device))
        actions = self.head.sample(parameters, torch.from_numpy(noise).to(self.device))
        return self.head.for_environment(actions.cpu().numpy())

    def evaluate(self, episodes: int, final: bool = False) -> Evaluation:
        return Evaluation(self.context.play(self.act_deterministic, episodes, final))

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

    def local_state(self) -> dict[str, Any]:
        episodes, environments = self.episodes.state(), self.envs.local_state()
        return {"observations": self.observations, "episodes": episodes, "environments": environments}

    def load_local_state(self, state: dict[str, Any]) -> np.ndarray:
        goes_on = self.envs.load_local_state(state["environments"], self.observations)
        self.observations = self.observations.copy()
        self.observations[goes_on] = state["observations"][goes_on]
        self.episodes.load_state(state["episodes"], goes_on)
        return goes_on

    def restart_episodes(self, goes_on: np.ndarray, begun: np.ndarray) -> None:
        self.observations = self.observations.copy()
        self.observations[~goes_on] = begun[~goes_on]
        self.episodes.restart_episodes(goes_on)

    def close(self) -> None:
        self.envs.close()
