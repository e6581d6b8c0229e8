"""Acting in environments to make rollouts, with the advantages of what was done in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.acting.actors import Actor, make_actor
from harness.acting.device_actor import DeviceActor
from harness.algorithms.base import Context
from harness.buffers import EpisodeAccount, Rollout
from harness.envs.faults import fault_in_observation, fault_in_reward, is_finite
from harness.models.actor_critic import ActorCritic
from harness.randomness import generator
from harness.training.precision import Precision

if TYPE_CHECKING:
    from harness.algorithms.common.on_policy import OnPolicySettings

DATA = ("observations", "actions", "log_probs", "values", "advantages", "returns")
"""What a minibatch has of each of its samples, by its name in the rollout."""


class Collector:
    """Steps this rank's environments by the policy. Episodes go on from one rollout to the next."""

    def __init__(self, context: Context, module: ActorCritic, precision: Precision, settings: OnPolicySettings) -> None:
        assert context.environments is not None
        self.envs, self.phases, self.device = context.environments, context.phases, context.device
        self.module, self.head, self.settings, self.seed = module, module.head, settings, context.config.seed
        example = self.head.sample(
            torch.zeros(1, self.head.parameter_count, device=self.device),
            torch.zeros(1, *self.head.noise_shape, device=self.device),
        )
        share, shape, dtype = self.envs.share, self.envs.observation_space.shape, self.envs.observation_dtype
        self.rollout = Rollout(settings.rollout_steps, share.count, shape, dtype, example[0].detach().cpu().numpy())
        """The last one."""
        if self.device.type == "cuda":
            self.rollout.pin(DATA)
        self.observations = self.envs.reset(self.seed)
        self.episodes = EpisodeAccount(share.count, self.envs.settings.info_metrics)
        self.fault: str | None = None
        """What is wrong with what an environment of this rank gave, in words."""
        self.actor: Actor = make_actor(module, self.device, precision)
        if self.device.type != "cpu":
            capture = context.config.compile.capture
            self.actor = DeviceActor(module, self.device, precision, self.rollout, self.envs.groups, capture)

    def collect(self, number: int) -> dict[str, float]:
        """Makes rollout number `number` of the run; returns this rank's sums over the episodes that ended, to be agreed
        on.

        Where environments step in groups, one group steps while the policy acts for another.
        """
        rollout, phases, envs = self.rollout, self.phases, self.envs
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
        phases, rows = self.phases, self.envs.groups[group]
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

    def action_noise(self, rollout: int) -> np.ndarray:
        """float32 (steps, total envs, *noise_shape): drawn whole on every rank, which uses its own columns."""
        draw = generator(self.seed, "actions", rollout)
        steps, total, each = self.rollout.steps, self.envs.share.total, self.head.noise_shape
        if self.head.noise == "uniform":
            return draw.random((steps, total, *each), dtype=np.float32)
        if not self.settings.gsde:
            return draw.standard_normal((steps, total, *each), dtype=np.float32)
        held = self.settings.sde_sample_freq or steps
        drawn = draw.standard_normal((-(-steps // held), total, *each), dtype=np.float32)
        return np.repeat(drawn, held, axis=0)[:steps]

    @torch.no_grad()
    def values(self, observations: np.ndarray) -> np.ndarray:
        return self.module(torch.from_numpy(observations).to(self.device))[1].cpu().numpy()

    # -- state ---------------------------------------------------------------------------------------------------------

    def restart(self, iteration: int) -> None:
        """New episodes everywhere, those with which a run goes on at `iteration`."""
        self.observations = self.envs.reset(self.seed, iteration)

    def local_state(self) -> dict[str, Any]:
        """As `Algorithm.local_state`."""
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
