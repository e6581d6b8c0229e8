"""The parameter space: what Optuna samples and stores, and the settings that a run gets from it.

Optuna keeps scalars only. So each parameter has two forms: what is *stored* in the study (a number, or the readable
name of a choice such as `64x64`) and the *setting* that a run gets (a list, or `1 - 10**x` of the stored `x`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.errors import BadInput
from search.transform import Transform

Stored = dict[str, Any]
MOST_GRID_POINTS = 100_000


@dataclass(frozen=True)
class Parameter:
    name: str
    """The dotted setting, or a command's placeholder."""
    distribution: BaseDistribution
    """What Optuna samples and stores."""
    choices: Mapping[Any, Any] = field(default_factory=dict)
    """Of a categorical parameter: stored name -> value of the setting."""
    transform: Transform | None = None
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Parent -> its stored values under which this parameter exists."""

    def suggest(self, trial: optuna.trial.BaseTrial) -> Any:
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return trial.suggest_categorical(self.name, choices)
            case IntDistribution() as d:
                return trial.suggest_int(self.name, d.low, d.high, step=d.step, log=d.log)
            case FloatDistribution() as d:
                return trial.suggest_float(self.name, d.low, d.high, step=d.step, log=d.log)
        raise AssertionError(self.distribution)

    def setting(self, stored: Any) -> Any:
        """The setting's value for what the study stores."""
        if self.choices:
            return self.choices[stored]
        return self.transform(stored) if self.transform else stored

    def exists_under(self, stored: Mapping[str, Any]) -> bool:
        return all(parent in stored and stored[parent] in accepted for parent, accepted in self.when.items())

    def extremes(self) -> list[Any]:
        """What to try before anything starts: both bounds, or every choice; as stored."""
        if self.choices:
            return list(self.choices)
        assert isinstance(self.distribution, (IntDistribution, FloatDistribution))
        return [self.distribution.low, self.distribution.high]

    def points(self) -> list[Any]:
        """All stored values of a parameter that has finitely many; `BadInput` for others."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return list(choices)
            case IntDistribution() as d:
                return list(range(d.low, d.high + 1, d.step))
            case FloatDistribution(step=float() as step) as d:
                return [d.low + at * step for at in range(round((d.high - d.low) / step) + 1)]
        raise BadInput(f"space.{self.name} has no finite grid: the grid sampler needs choices, whole numbers or a step")

    def describe(self) -> dict[str, Any]:
        """Everything that makes two parameters the same, as JSON can hold it."""
        described: dict[str, Any] = json.loads(optuna.distributions.distribution_to_json(self.distribution))
        if self.choices:
            described["values"] = list(self.choices.values())
        if self.transform:
            described["transform"] = self.transform.text
        if self.when:
            described["when"] = {parent: list(accepted) for parent, accepted in self.when.items()}
        return described


@dataclass(frozen=True)
class Space:
    """Parameters in such an order that each comes after those that it depends on."""

    parameters: tuple[Parameter, ...]

    @property
    def names(self) -> list[str]:
        return [parameter.name for parameter in self.parameters]

    @property
    def conditional(self) -> bool:
        return any(parameter.when for parameter in self.parameters)

    def suggest(self, trial: optuna.trial.BaseTrial) -> Stored:
        """Asks the trial for each parameter that exists; the stored values."""
        stored: Stored = {}
        for parameter in self.parameters:
            if parameter.exists_under(stored):
                stored[parameter.name] = parameter.suggest(trial)
        return stored

    def settings(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Dotted setting -> value, for the stored values of a trial."""
        return {p.name: p.setting(stored[p.name]) for p in self.parameters if p.name in stored}

    def shown(self, stored: Mapping[str, Any]) -> dict[str, str]:
        """Dotted setting -> text for people; a transformed one shows both its value and x."""
        return {
            p.name: show(p.setting(stored[p.name])) + (f" (x = {show(stored[p.name])})" if p.transform else "")
            for p in self.parameters
            if p.name in stored
        }

    def probes(self) -> Iterator[tuple[Parameter, Stored]]:
        """Each parameter at each of its extremes, with just those others set that it needs to exist."""
        by_name = {parameter.name: parameter for parameter in self.parameters}

        def parents(parameter: Parameter) -> Stored:
            stored: Stored = {}
            for parent, accepted in parameter.when.items():
                stored |= parents(by_name[parent]) | {parent: accepted[0]}
            return stored

        for parameter in self.parameters:
            for extreme in parameter.extremes():
                yield parameter, parents(parameter) | {parameter.name: extreme}

    def grid(self) -> list[Stored]:
        """Every point of a finite space, without the parameters that do not exist there."""
        points: list[Stored] = [{}]
        for parameter in self.parameters:
            values = parameter.points()
            points = [
                {**point, **chosen}
                for point in points
                for chosen in ([{parameter.name: value} for value in values] if parameter.exists_under(point) else [{}])
            ]
            if len(points) > MOST_GRID_POINTS:
                raise BadInput(f"the grid of this space has more than {MOST_GRID_POINTS} points; use another sampler")
        return points

    def describe(self) -> dict[str, Any]:
        return {parameter.name: parameter.describe() for parameter in self.parameters}


def show(value: Any) -> str:
    """A value for people: floats to six digits, texts without quotes."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def same_space(now: Mapping[str, Any], before: Mapping[str, Any]) -> str | None:
    """None where two described spaces are the same; otherwise one line on the first difference."""
    now, before = json.loads(json.dumps(now)), json.loads(json.dumps(before))
    for name in itertools.chain(before, now):
        if name not in now:
            return f"{name} was searched"
        if name not in before:
            return f"{name} was not searched"
        if now[name] != before[name]:
            return f"{name} was {json.dumps(before[name])}, is now {json.dumps(now[name])}"
    return None
