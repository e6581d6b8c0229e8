"""Several seeds, one value: which seeds a trial runs with, how their reports line up, how their values become one."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

SEED_LIMIT = 2**31  # what every library accepts as a seed
SEARCH, CONFIRM = 0, 1


@dataclass(frozen=True)
class Objective:
    seeds: tuple[int, ...]
    """Of the search: the same in every trial, so that trials differ by their parameters alone."""
    evaluations: int | None
    """K, the most reports of one seed; None where it is not known (one seed of a command)."""
    aggregate: str
    """`median` or `mean`."""

    @property
    def steps(self) -> int | None:
        """The steps of a whole trial as Optuna counts them."""
        return None if self.evaluations is None else self.evaluations * len(self.seeds)

    def step(self, seed: int, evaluation: int) -> int | None:
        """Optuna's step of evaluation 1 … K (or 0 … K - 1) of the seed with this index: pruners compare a seed's with
        the same seed's.

        None for a report beyond K, which would count as another seed's.
        """
        if self.evaluations is None:
            return evaluation
        return seed * self.evaluations + evaluation if 0 <= evaluation <= self.evaluations else None

    def value(self, values: Sequence[float]) -> float:
        return statistics.median(values) if self.aggregate == "median" else statistics.fmean(values)


def search_seeds(study_seed: int, count: int) -> tuple[int, ...]:
    return draw_seeds(study_seed, SEARCH, count, ())


def confirm_seeds(study_seed: int, count: int, used: Iterable[int]) -> tuple[int, ...]:
    """Seeds for the confirmation, none of which is in `used`."""
    return draw_seeds(study_seed, CONFIRM, count, used)


def draw_seeds(study_seed: int, purpose: int, count: int, used: Iterable[int]) -> tuple[int, ...]:
    """The first `count` different seeds of an endless series, so that more seeds keep the earlier ones."""
    known = set(used)
    rng = np.random.default_rng([study_seed, purpose])
    seeds: list[int] = []
    while len(seeds) < count:
        seed = int(rng.integers(SEED_LIMIT))
        if seed not in known:
            known.add(seed)
            seeds.append(seed)
    return tuple(seeds)
