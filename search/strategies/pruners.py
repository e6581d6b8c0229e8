"""Pruners by name: `pruner = "median"`, or a table with Optuna's arguments, `{name = "median", n_startup_trials = 5}`.

Steps are evaluations, 1 … K of each seed in turn, so `n_warmup_steps` and `min_resource` count evaluations.
A new one is a class with `build` and a line in `PRUNERS`; a user's own `module:Class` is such a class, or Optuna's.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import optuna.pruners as optuna_pruners
import pydantic
from optuna.pruners import BasePruner
from pydantic import Field

from harness.settings import Settings
from search.strategies.own import make, own_class


class PrunerSettings(Settings):
    name: str

    @abstractmethod
    def build(self, steps: int | None) -> BasePruner:
        """The pruner of trials that have this number of steps at most (None: not known)."""


class Median(PrunerSettings):
    """Prunes a trial whose best value so far is worse than the median of the others at the same step."""

    n_startup_trials: int = Field(5, ge=0)
    """No pruning before so many trials have finished."""
    n_warmup_steps: int = Field(0, ge=0)
    """No pruning before this step of a trial."""
    interval_steps: int = Field(1, ge=1)
    """Look at every so many steps."""
    n_min_trials: int = Field(1, ge=1)
    """Trials that must have reported at a step before one is pruned there."""

    def build(self, steps: int | None) -> BasePruner:
        return optuna_pruners.MedianPruner(
            self.n_startup_trials, self.n_warmup_steps, self.interval_steps, n_min_trials=self.n_min_trials
        )


class Percentile(Median):
    """Keeps the trials in the best `percentile` percent at the same step."""

    percentile: float = Field(25.0, ge=0, le=100)
    """How many percent stay."""

    def build(self, steps: int | None) -> BasePruner:
        return optuna_pruners.PercentilePruner(
            self.percentile,
            self.n_startup_trials,
            self.n_warmup_steps,
            self.interval_steps,
            n_min_trials=self.n_min_trials,
        )


class Halving(PrunerSettings):
    """Asynchronous successive halving (Li et al., 2018): of those that reach a rung, the best continue."""

    min_resource: int | Literal["auto"] = "auto"
    """The step of the first rung."""
    reduction_factor: int = Field(4, ge=2)
    """One of so many continues at each rung."""
    min_early_stopping_rate: int = Field(0, ge=0)
    """The first rung is at `min_resource * reduction_factor ** min_early_stopping_rate`."""
    bootstrap_count: int = Field(0, ge=0)
    """Trials that must have reached a rung before one is pruned there."""

    def build(self, steps: int | None) -> BasePruner:
        return optuna_pruners.SuccessiveHalvingPruner(
            self.min_resource, self.reduction_factor, self.min_early_stopping_rate, self.bootstrap_count
        )


class Hyperband(PrunerSettings):
    """Several successive halvings side by side, from hasty to patient (Li et al., 2018)."""

    min_resource: int = Field(1, ge=1)
    """The least number of steps of a trial."""
    max_resource: int | Literal["auto"] = "auto"
    """The steps of a whole trial; `auto`: what the run's evaluations say."""
    reduction_factor: int = Field(3, ge=2)
    """One of so many continues at each rung."""

    def build(self, steps: int | None) -> BasePruner:
        most = steps if self.max_resource == "auto" and steps is not None else self.max_resource
        return optuna_pruners.HyperbandPruner(self.min_resource, most, self.reduction_factor)


class Threshold(PrunerSettings):
    """Prunes a trial whose value is below `lower` or above `upper`."""

    lower: float | None = None
    """A value below it is pruned."""
    upper: float | None = None
    """A value above it is pruned."""
    n_warmup_steps: int = Field(0, ge=0)
    """No pruning before this step."""
    interval_steps: int = Field(1, ge=1)
    """Look at every so many steps."""

    @pydantic.model_validator(mode="after")
    def has_a_threshold(self) -> Threshold:
        if self.lower is None and self.upper is None:
            raise ValueError("needs lower or upper")
        return self

    def build(self, steps: int | None) -> BasePruner:
        return optuna_pruners.ThresholdPruner(self.lower, self.upper, self.n_warmup_steps, self.interval_steps)


class Patient(PrunerSettings):
    """Prunes where `wrapped_pruner` would, but only a trial that has not become better for `patience` steps."""

    wrapped_pruner: pydantic.SerializeAsAny[PrunerSettings] | None = None
    """The pruner behind it; without one, patience alone decides."""
    patience: int = Field(3, ge=0)
    """Steps without a better value that are forgiven."""
    min_delta: float = Field(0.0, ge=0)
    """What counts as better."""

    def build(self, steps: int | None) -> BasePruner:
        inner = self.wrapped_pruner.build(steps) if self.wrapped_pruner else None
        return optuna_pruners.PatientPruner(inner, self.patience, self.min_delta)


class Wilcoxon(PrunerSettings):
    """Prunes a trial that a signed-rank test over equal steps finds worse than the best: for many seeds."""

    p_threshold: float = Field(0.1, gt=0, lt=1)
    """The p-value under which a trial is pruned."""
    n_startup_steps: int = Field(2, ge=0)
    """No pruning before so many steps of a trial."""

    def build(self, steps: int | None) -> BasePruner:
        return optuna_pruners.WilcoxonPruner(p_threshold=self.p_threshold, n_startup_steps=self.n_startup_steps)


class NoPruner(PrunerSettings):
    """Every trial runs to its end."""

    def build(self, steps: int | None) -> BasePruner:
        return optuna_pruners.NopPruner()


class OwnPruner(PrunerSettings):
    """A pruner's class as Optuna has them, by `module:Class`; the other settings are arguments of the class."""

    model_config = pydantic.ConfigDict(extra="allow")

    def build(self, steps: int | None) -> BasePruner:
        made_by = own_class(self.name, "study.pruner", BasePruner)
        return make(made_by, "pruner", self.name, self.model_extra or {})


PRUNERS: dict[str, type[PrunerSettings]] = {
    "median": Median,
    "percentile": Percentile,
    "halving": Halving,
    "hyperband": Hyperband,
    "threshold": Threshold,
    "patient": Patient,
    "wilcoxon": Wilcoxon,
    "none": NoPruner,
}
