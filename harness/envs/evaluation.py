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
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.envs.faults import is_finite
from harness.envs.settings import EnvSettings
from harness.errors import EnvironmentFailed

if TYPE_CHECKING:
    from harness.distributed.transports.base import Communicator

LISTEN_SECONDS = 0.2
"""Between two times that the ranks agree whether to play on."""
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
        if self.communicator is None:
            return busy
        return bool(self.communicator.agree({"busy": float(busy)}, "max")["busy"])

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
