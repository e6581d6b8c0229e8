"""Samplers by name: `sampler = "tpe"`, or a table with Optuna's own arguments, `{name = "tpe", n_startup_trials = 5}`.

A new one is a class with `build` and a line in `SAMPLERS`; a user's own `module:Class` is such a class, or Optuna's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import optuna
import pydantic
from optuna.samplers import BaseSampler, BruteForceSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field

from harness.settings import Settings
from search.space.space import Space
from search.strategies.own import arguments_of, make, own_class


class SamplerSettings(Settings):
    name: str

    @abstractmethod
    def build(self, space: Space, seed: int) -> BaseSampler: ...


class Tpe(SamplerSettings):
    """Tree-structured Parzen estimators (Bergstra et al., 2011): a good first choice for most spaces."""

    n_startup_trials: int = Field(10, ge=0)
    """Trials drawn at random before the model is asked."""
    multivariate: bool = True
    """Model the parameters together rather than each alone."""

    def build(self, space: Space, seed: int) -> BaseSampler:
        # A multivariate model takes only what all trials share; conditional spaces are modelled group by group.
        group = self.multivariate and space.conditional
        return TPESampler(
            n_startup_trials=self.n_startup_trials, multivariate=self.multivariate, group=group, seed=seed
        )


class Gp(SamplerSettings):
    """A Gaussian process: few, costly trials of few parameters."""

    n_startup_trials: int = Field(10, ge=1)
    """Trials drawn at random before the model is asked."""

    def build(self, space: Space, seed: int) -> BaseSampler:
        return GPSampler(n_startup_trials=self.n_startup_trials, seed=seed, warn_independent_sampling=False)


class CmaEs(SamplerSettings):
    """CMA-ES: many trials of numeric parameters; choices and conditional parameters are drawn at random."""

    n_startup_trials: int = Field(1, ge=0)
    """Trials drawn at random first."""

    def build(self, space: Space, seed: int) -> BaseSampler:
        return CmaEsSampler(n_startup_trials=self.n_startup_trials, seed=seed, warn_independent_sampling=False)


class Random(SamplerSettings):
    """Independent random draws: the control that every other sampler must beat."""

    def build(self, space: Space, seed: int) -> BaseSampler:
        return RandomSampler(seed=seed)


class Grid(SamplerSettings):
    """Every point of a finite space once, in random order; the study is done when all are."""

    def build(self, space: Space, seed: int) -> BaseSampler:
        space.grid()  # refuses what is not finite, or too much to list
        return ExhaustiveSampler(seed=seed)


class ExhaustiveSampler(BruteForceSampler):
    """Optuna's exhaustive sampler (it knows conditional parameters, its `GridSampler` does not), for ask and tell."""

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Optuna stops the study here, which raises outside `study.optimize`; the driver asks its drawer instead."""


class OwnSampler(SamplerSettings):
    """A sampler's class as Optuna has them, by `module:Class`; the other settings are arguments of the class. Where it
    takes a `seed`, that follows from `study.seed`."""

    model_config = pydantic.ConfigDict(extra="allow")

    def build(self, space: Space, seed: int) -> BaseSampler:
        made_by = own_class(self.name, "study.sampler", BaseSampler)
        seeded = {"seed": seed} if "seed" in arguments_of(made_by) else {}
        return make(made_by, "sampler", self.name, {**seeded, **(self.model_extra or {})})


SAMPLERS: dict[str, type[SamplerSettings]] = {"tpe": Tpe, "gp": Gp, "cmaes": CmaEs, "random": Random, "grid": Grid}


def sampler_seed(seed: int, trials: int) -> int:
    """Depends on how many trials there are: a second run of a study must not repeat the draws of the first."""
    return int(np.random.SeedSequence([seed, trials]).generate_state(1)[0])
