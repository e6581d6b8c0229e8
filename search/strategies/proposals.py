"""A trial's point: one that its sampler proposes, that can be run, and that no trial had before.

A draw that will not do is drawn again, and leaves nothing in the study: it costs none of the trials asked for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import optuna
from optuna.pruners import _filter_study
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from harness.errors import BadInput
from search.space.parameter import Parameter, contains
from search.space.space import Point, Space, Stored, point_of

DRAWS = 200
"""How often a point is drawn before the draws are given up, or a finite space is gone through."""
SAMPLED = 20
"""How many of those the study's sampler proposes, which may take it a second each; the others are random."""


class NothingLeft(Exception):
    """No point that can be run was found: says why."""


class Drawer:
    """Draws a study's points. `check` refuses (`BadInput`) settings that cannot be run together."""

    def __init__(self, study: optuna.Study, space: Space, check: Callable[[Mapping[str, Any]], None]) -> None:
        self.study = study
        self.space = space
        self.check = check
        self.size = space.size
        self.refused: dict[Point, str] = {}
        """Points that cannot be run, and why."""
        self._rest = iter(self._shuffled())
        self._random = RandomSampler(seed=len(self._trials()))

    def draw(self, trial: optuna.Trial) -> Stored:
        """The point of a trial that was asked for, which the study keeps from now on.

        `BadInput` where the trial was queued with values that cannot be run; `NothingLeft` where no draw can.
        """
        kept = self.study._storage.get_trial(trial._trial_id)
        fixed = {**kept.system_attrs.get("fixed_params", {}), **kept.params}
        self.space.check_stored(fixed)
        stored = self._queued(trial, fixed) if fixed else self._new(trial)
        trial._fixed_params = stored  # of this object alone: in the study the trial is as any other
        self.space.suggest(trial)
        return stored

    @property
    def exhausted(self) -> bool:
        """Whether the space is finite and nothing of it is left to be tried or queued."""
        if self.size is None or any(trial.state == TrialState.WAITING for trial in self._trials()):
            return False
        if len(self._tried()) + len(self.refused) < self.size // 2:  # going through a large grid may take seconds
            return False
        return self._next_of_rest() is None

    def _queued(self, trial: optuna.Trial, fixed: Stored) -> Stored:
        """What was queued, and draws for what that leaves open."""
        for attempt in range(DRAWS):
            stored = self._propose(trial, fixed, attempt)
            for name in fixed:
                if name not in stored:
                    raise BadInput(f"{name} does not exist beside {self._shown(stored)}")
            if (why := self._refusal(stored)) is None:
                return stored
            if stored.keys() == fixed.keys():
                raise BadInput(why)
        raise BadInput(why)

    def _new(self, trial: optuna.Trial) -> Stored:
        tried, why = self._tried(), "each point that was drawn had been tried"
        for attempt in range(DRAWS):
            stored = self._propose(trial, {}, attempt)
            if point_of(stored) in tried:
                continue
            refusal = self._refusal(stored)
            if refusal is None:
                return stored
            why = refusal
        if self.size is not None:
            rest = self._next_of_rest()
            if rest is not None:
                return rest
        raise NothingLeft(f"none of {DRAWS} draws gave settings that can be run and are new; the last: {why}")

    def _propose(self, trial: optuna.Trial, fixed: Stored, attempt: int) -> Stored:
        """What the sampler proposes, by the calls that Optuna's own `suggest` makes, without a line in the storage."""
        frozen = self.study._storage.get_trial(trial._trial_id)
        frozen.params, frozen.distributions = {}, {}
        sampler = self.study.sampler if attempt < SAMPLED else self._random
        study = _filter_study(self.study, frozen)
        searched = sampler.infer_relative_search_space(study, frozen)
        together = sampler.sample_relative(study, frozen, searched)

        def value_of(parameter: Parameter) -> Any:
            name, distribution = parameter.name, parameter.distribution
            if name in fixed:
                value = fixed[name]
            elif distribution.single():
                value = parameter.extremes()[0]
            elif name in together and contains(distribution, together[name]):
                value = together[name]
            else:
                value = sampler.sample_independent(study, frozen, name, distribution)
            frozen.distributions = {**frozen.distributions, name: distribution}
            frozen.params = {**frozen.params, name: value}
            return value

        return self.space.draw(value_of)

    def _refusal(self, stored: Stored) -> str | None:
        """Why a point cannot be run; None where it can."""
        point = point_of(stored)
        if point not in self.refused:
            try:
                self.check(self.space.settings(stored))
                return None
            except BadInput as error:
                self.refused[point] = str(error)
        return self.refused[point]

    def _next_of_rest(self) -> Stored | None:
        """A point of the finite space that is new and can be run; the same until it is taken."""
        tried = self._tried()
        for stored in self._rest:
            if point_of(stored) not in tried and self._refusal(stored) is None:
                self._rest = chain(stored, self._rest)
                return stored
        return None

    def _shuffled(self) -> Iterator[Stored]:
        """All points of the finite space, none listed before the first is asked for."""
        points = self.space.grid()
        random.Random(len(points)).shuffle(points)
        yield from points

    def _tried(self) -> set[Point]:
        names = set(self.space.names)
        return {point_of(trial.params) for trial in self._trials() if trial.params and names >= trial.params.keys()}

    def _trials(self) -> list[optuna.trial.FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _shown(self, stored: Stored) -> str:
        return ", ".join(f"{name} = {value}" for name, value in self.space.shown(stored).items())


def chain(first: Stored, rest: Iterator[Stored]) -> Iterator[Stored]:
    yield first
    yield from rest
