"""What plays the episodes of evaluations: environments that are made for it once and kept, or those of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from harness.envs.backends.base import Vector
from harness.envs.backends.native import NativeBackend, is_cartpole
from harness.envs.evaluation import Act, Episode, Noise, Players, noise_of, refuse_broken
from harness.envs.factory import make_environment, number_of
from harness.envs.info import metrics_of
from harness.envs.settings import LIFE_LOST, EnvSettings
from harness.envs.snapshots.snapshot import found, put_back, state_of
from harness.envs.vectors import joined

if TYPE_CHECKING:
    from harness.distributed.transports.base import Communicator

AT_ONCE = 16
"""Episodes that a rank plays side by side, so that the policy acts for several in one call."""
LARGEST_STATE = 2**20
"""Bytes of an environment's state that are put back before each episode; one that holds more goes by its seed alone."""


@dataclass
class Kept:
    """An environment that is kept, and what it was made as."""

    env: gym.Env
    made: list[Any] | None = field(init=False)
    """Its state then; None where that cannot be had, or is too large."""
    used: bool = False

    def __post_init__(self) -> None:
        self.made = small_state(self.env)

    def begin(self, seed: int, settings: EnvSettings) -> np.ndarray:
        """The first observation of the episode of that seed."""
        if self.used and self.made is not None:
            if small_state(self.env) is None:  # it has got hold of what must not be taken away from it
                self.made = None
            elif not as_made(self.env, self.made):
                self.env.close()
                self.env = make_environment(settings)
        self.used = True
        observation, _ = self.env.reset(seed=seed)
        return observation


def small_state(env: gym.Env) -> list[Any] | None:
    try:
        state = state_of(env)
    except Exception:  # of a class that gives its state itself, before a reset say
        return None
    large = state is not None and sum(array.nbytes for array in found(state)) > LARGEST_STATE
    return None if large else state


def as_made(env: gym.Env, made: list[Any]) -> bool:
    try:
        return put_back(env, made)
    except Exception:  # as above
        return False


class SeparateEnvironments(Players):
    """Each place has an environment, which is made when it is first needed and kept."""

    def __init__(
        self,
        settings: EnvSettings,
        communicator: Communicator | None,
        at_once: int = AT_ONCE,
        max_steps: int | None = None,
    ) -> None:
        super().__init__(settings, communicator, max_steps)
        self.at_once = at_once
        self.envs: list[Kept] = []

    def make(self) -> gym.Env:
        """One more environment."""
        self.envs.append(Kept(make_environment(self.settings)))
        return self.envs[-1].env

    def steps(self, act: Act, mine: Sequence[int], seeds: Sequence[int], noise: Noise | None) -> Iterator[None]:
        while len(self.envs) < min(self.at_once, len(mine)):
            self.make()
            yield
        waiting, names = iter(mine), self.settings.info_metrics

        def begin(place: int) -> Episode | None:
            number = next(waiting, None)
            if number is None:
                return None
            observation = self.envs[place].begin(seeds[number], self.settings)
            return self.episode(number, observation, seeds[number], noise)

        begun = [(place, begin(place)) for place in range(min(self.at_once, len(mine)))]
        places, playing = [place for place, _ in begun], [episode for _, episode in begun if episode is not None]
        while playing:
            observations = np.stack([episode.observation for episode in playing])
            refuse_broken(observations, playing)
            actions = act(observations, noise_of(playing, noise))
            ended = []
            for at, episode in enumerate(playing):
                env = self.envs[places[at]].env
                episode.observation, reward, terminated, truncated, info = env.step(actions[at])
                episode.total += number_of(reward)
                episode.steps += 1
                over = terminated or truncated
                if LIFE_LOST in info:
                    episode.observation, _ = env.reset()
                    over = False
                if over or self.is_cut(episode):
                    self.end(episode, not over, metrics_of(info, names))
                    following = begin(places[at])
                    if following is None:
                        ended.append(at)
                    else:
                        playing[at] = following
            for at in reversed(ended):
                del playing[at], places[at]
            yield

    def close(self) -> None:
        for kept in self.envs:
            kept.env.close()
        self.envs = []


class VectorEnvironments(SeparateEnvironments):
    """CartPoles in one vector: each is its single environment, in a fraction of the time."""

    def steps(self, act: Act, mine: Sequence[int], seeds: Sequence[int], noise: Noise | None) -> Iterator[None]:
        if mine:
            vector = NativeBackend().make(self.settings, min(self.at_once, len(mine)), 0, 1)
            yield from steps_of_vector(self, vector, act, mine, seeds, noise)


def separate_environments(
    settings: EnvSettings, communicator: Communicator | None, at_once: int = AT_ONCE
) -> SeparateEnvironments:
    """What plays evaluations beside training, or without any."""
    kind = VectorEnvironments if is_cartpole(settings) else SeparateEnvironments
    return kind(settings, communicator, at_once)


class TrainingEnvironments(Players):
    """All of a rank's environments play side by side; those whose episode is over are stepped on beside the others,
    and count no more. Who lends them puts back their state."""

    def __init__(
        self, settings: EnvSettings, communicator: Communicator, vector: Vector, max_steps: int | None = None
    ) -> None:
        super().__init__(settings, communicator, max_steps)
        self.vector, self.at_once = vector, vector.count

    def steps(self, act: Act, mine: Sequence[int], seeds: Sequence[int], noise: Noise | None) -> Iterator[None]:
        yield from steps_of_vector(self, self.vector, act, mine, seeds, noise)


def steps_of_vector(
    players: Players, vector: Vector, act: Act, mine: Sequence[int], seeds: Sequence[int], noise: Noise | None
) -> Iterator[None]:
    """Plays the episodes `mine` into `players.finished`, as many side by side as the vector has environments."""
    none = (float("nan"),) * len(players.settings.info_metrics)
    for first in range(0, len(mine), vector.count):
        part = list(mine[first : first + vector.count])
        rows = part + [part[-1]] * (vector.count - len(part))
        observations = vector.reset([seeds[number] for number in rows])
        playing = [players.episode(number, observations[row], seeds[number], noise) for row, number in enumerate(rows)]
        left = list(range(len(part)))
        totals = np.zeros(vector.count)
        while left:
            refuse_broken(observations, playing)
            actions = act(observations, noise_of(playing, noise))
            for group, which in enumerate(vector.groups):
                vector.send(actions[which], group)
            results = [vector.receive(group) for group in range(len(vector.groups))]
            result = results[0] if len(results) == 1 else joined(results)
            observations, over = result.observations, result.terminated | result.truncated
            if result.lives_lost is not None:
                over = over & ~result.lives_lost
            totals += result.true_rewards
            for episode in playing:
                episode.steps += 1
            if not (over.any() or players.is_cut(playing[0])):  # they began together
                yield
                continue
            for row in list(left):
                if over[row] or players.is_cut(playing[row]):
                    metrics = none if result.info_metrics is None else tuple(result.info_metrics[row].tolist())
                    playing[row].total = float(totals[row])
                    players.end(playing[row], not over[row], metrics)
                    left.remove(row)
            yield


def play_episodes(
    settings: EnvSettings,
    act: Callable[[np.ndarray], np.ndarray],
    seeds: list[int],
    communicator: Communicator | None = None,
    at_once: int = AT_ONCE,
    max_steps: int | None = None,
) -> np.ndarray:
    """Float64 (episodes,): true returns, in the order of `seeds`, equal on all ranks.

    `act` takes observations (n, *obs_shape) and gives actions for them, n from 1 to `at_once`. Episodes are cut after
    `max_steps`, where that is given.
    """
    players = separate_environments(settings, communicator, at_once)
    players.max_steps = max_steps
    try:
        return players.play(lambda observations, _: act(observations), seeds).returns
    finally:
        players.close()
