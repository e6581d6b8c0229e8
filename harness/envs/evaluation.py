"""Whole episodes of a policy, shared out over the ranks: in environments that are made for it once and kept, or in
those of training.

An episode follows from its seed alone, as if its environment had just been made: what an environment would carry over
from earlier episodes is put back, where its state can be had. So a run that was resumed evaluates as one that was not.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit

from harness.envs.backends.base import Vector
from harness.envs.factory import make_environment, number_of
from harness.envs.faults import is_finite
from harness.envs.info import metrics_of
from harness.envs.settings import LIFE_LOST, EnvSettings
from harness.envs.snapshots.snapshot import found, layers, put_back, state_of
from harness.envs.vectors import joined
from harness.errors import EnvironmentFailed

if TYPE_CHECKING:
    from harness.distributed.transports.base import Communicator

AT_ONCE = 16
"""Episodes that a rank plays side by side, so that the policy acts for several in one call."""
LONGEST = 100_000
"""Steps after which an episode is cut where neither the environment nor the user has a limit."""
LISTEN_SECONDS = 0.2
"""Between two times that the ranks agree whether to play on."""
LARGEST_STATE = 2**20
"""Bytes of an environment's state that are put back before each episode; one that holds more goes by its seed alone."""

Listen = Callable[[bool], bool]
"""Collective: from whether this rank still plays to whether all are to play on."""


def episode_seeds(seed: int, purpose: str, episodes: int) -> list[int]:
    """Seeds that follow from the run's seed, the purpose and the episode's number; training's follow from other
    numbers."""
    purposes = {"evaluation": 0xE7A1, "final": 0xF17A1, "command": 0xC0DE}
    return [int(each) for each in np.random.SeedSequence([seed, purposes[purpose]]).generate_state(episodes, np.uint32)]


@dataclass(frozen=True)
class Noise:
    """The random numbers that a policy draws an action from, of one environment."""

    kind: str
    """`uniform`, in [0, 1), or `normal`."""
    shape: tuple[int, ...]
    every: int | None = 1
    """Steps that they stay for; None: a whole episode."""

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """float32 `shape`"""
        if self.kind == "uniform":
            return generator.random(self.shape, dtype=np.float32)
        return generator.standard_normal(self.shape, dtype=np.float32)


Act = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
"""Observations (n, *obs_shape), and noise (n, *shape) where actions are drawn, to actions for the environments."""


@dataclass(slots=True)
class Episode:
    """One that is played."""

    number: int
    observation: np.ndarray
    generator: np.random.Generator | None
    """Of its noise."""
    total: float = 0.0
    steps: int = 0
    noise: np.ndarray | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of an episode."""

    total: float
    cut: bool
    metrics: tuple[float, ...]


@dataclass(frozen=True)
class Played:
    """Episodes of all ranks; equal on all of them."""

    returns: np.ndarray
    """Float64 (episodes,): true returns, in the order of their seeds."""
    metrics: dict[str, float]
    """Of each of `env.info_metrics` its mean over the episodes whose last info had it; no entry where none had."""
    cut: int
    """How many were cut by the limit on their steps."""


class Players(ABC):
    """Plays episodes on this rank; every method but `close` is collective."""

    at_once: int
    """Episodes that are played side by side."""

    def __init__(self, settings: EnvSettings, communicator: Communicator | None, max_steps: int | None) -> None:
        """`communicator`: None for one process alone. `max_steps`: after which an episode is cut; None for never."""
        self.settings, self.communicator, self.max_steps = settings, communicator, max_steps
        self.finished: dict[int, Outcome] = {}
        """This rank's, by the number of the episode: also where the others were broken off."""

    def play(self, act: Act, seeds: Sequence[int], listen: Listen | None = None, noise: Noise | None = None) -> Played:
        """An episode for each seed. `noise`: what actions are drawn from; None where they are not."""
        listen = listen or self._listen
        self.finished = {}
        rank, size = (0, 1) if self.communicator is None else (self.communicator.rank, self.communicator.size)
        mine = range(rank, len(seeds), size)
        steps, busy = self.steps(act, list(mine), seeds, noise), True
        while True:
            until = time.perf_counter() + LISTEN_SECONDS
            while busy and time.perf_counter() < until:
                busy = next(steps, True) is None
            if not listen(busy):
                break
        merged: dict[int, Outcome] = {}
        for part in [self.finished] if self.communicator is None else self.communicator.gather_objects(self.finished):
            merged.update(part)
        return self.summed_up([merged[episode] for episode in sorted(merged)])  # all, unless `listen` ended it early

    def summed_up(self, outcomes: Sequence[Outcome]) -> Played:
        metrics = {}
        for place, name in enumerate(self.settings.info_metrics):
            values = np.array([outcome.metrics[place] for outcome in outcomes])
            if not np.isnan(values).all():
                metrics[name] = float(np.nanmean(values))
        returns = np.array([outcome.total for outcome in outcomes])
        return Played(returns, metrics, sum(outcome.cut for outcome in outcomes))

    def _listen(self, busy: bool) -> bool:
        return (
            busy if self.communicator is None else bool(self.communicator.agree({"busy": float(busy)}, "max")["busy"])
        )

    @abstractmethod
    def steps(self, act: Act, mine: Sequence[int], seeds: Sequence[int], noise: Noise | None) -> Iterator[None]:
        """Plays the episodes `mine` into `finished`; stops for a moment after each step."""

    def episode(self, number: int, observation: np.ndarray, seed: int, noise: Noise | None) -> Episode:
        generator = None if noise is None else np.random.default_rng([seed, 0xAC7])
        return Episode(number, observation, generator)

    def is_cut(self, episode: Episode) -> bool:
        return self.max_steps is not None and episode.steps >= self.max_steps

    def end(self, episode: Episode, cut: bool, metrics: tuple[float, ...]) -> None:
        if not math.isfinite(episode.total):
            raise EnvironmentFailed(f"episode {episode.number} of an evaluation gave a reward that is no number")
        self.finished[episode.number] = Outcome(episode.total, cut, metrics)

    def close(self) -> None:
        """Gives back the environments that were made."""


def refuse_broken(observations: np.ndarray, playing: Sequence[Episode]) -> None:
    """EnvironmentFailed for what is no observation, before the policy sees it."""
    if not is_finite(observations):
        row = int(np.flatnonzero(~np.isfinite(observations).reshape(len(observations), -1).all(1))[0])
        number = playing[row].number
        raise EnvironmentFailed(f"episode {number} of an evaluation gave an observation that is no number")


def noise_of(playing: Sequence[Episode], noise: Noise | None) -> np.ndarray | None:
    """float32 (n, *shape), for the next step of each."""
    if noise is None:
        return None
    for episode in playing:
        if episode.noise is None or noise.every is not None and episode.steps % noise.every == 0:
            assert episode.generator is not None
            episode.noise = noise.draw(episode.generator)
    return np.stack([episode.noise for episode in playing])  # type: ignore[misc]


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


class TrainingEnvironments(Players):
    """All of a rank's environments play side by side; those whose episode is over are stepped on beside the others,
    and count no more. Who lends them puts back what training goes on from."""

    def __init__(
        self, settings: EnvSettings, communicator: Communicator, vector: Vector, max_steps: int | None = None
    ) -> None:
        super().__init__(settings, communicator, max_steps)
        self.vector, self.at_once = vector, vector.count

    def steps(self, act: Act, mine: Sequence[int], seeds: Sequence[int], noise: Noise | None) -> Iterator[None]:
        vector, none = self.vector, (float("nan"),) * len(self.settings.info_metrics)
        for first in range(0, len(mine), vector.count):
            part = list(mine[first : first + vector.count])
            rows = part + [part[-1]] * (vector.count - len(part))
            observations = vector.reset([seeds[number] for number in rows])
            playing = [self.episode(number, observations[row], seeds[number], noise) for row, number in enumerate(rows)]
            left = set(range(len(part)))
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
                for row, episode in enumerate(playing):
                    episode.total += float(result.true_rewards[row])
                    episode.steps += 1
                for row in sorted(left):
                    if over[row] or self.is_cut(playing[row]):
                        told = none if result.info_metrics is None else tuple(result.info_metrics[row].tolist())
                        self.end(playing[row], not over[row], told)
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
    players = SeparateEnvironments(settings, communicator, at_once, max_steps)
    try:
        return players.play(lambda observations, _: act(observations), seeds).returns
    finally:
        players.close()


# -- how long an episode may be ----------------------------------------------------------------------------------------


def is_limited(settings: EnvSettings, env: gym.Env | None = None) -> bool:
    """Whether its episodes end by a time limit, as far as can be told: by its registration, or by the wrappers of
    `env`, where there is one."""
    if settings.game is not None:
        return True
    with suppress(gym.error.Error, ImportError):
        spec = gym.spec(settings.id)
        by_kwargs = {**spec.kwargs, **settings.kwargs}
        if spec.max_episode_steps is not None or by_kwargs.get("max_episode_steps") is not None:
            return True
        if by_kwargs.get("max_num_frames_per_episode"):  # of Atari's raw games
            return True
    if env is not None:
        return any(isinstance(layer, TimeLimit) for layer in layers(env))
    return any("TimeLimit" in str(wrapper) for wrapper in settings.wrappers)


def longest_episode(settings: EnvSettings, max_steps: int | None, env: gym.Env | None = None) -> int | None:
    """`evaluation.max_steps`, or what it is where that is unset: None for no limit of ours."""
    if max_steps is not None:
        return max_steps
    return None if is_limited(settings, env) else LONGEST
