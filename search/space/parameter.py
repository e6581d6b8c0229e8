"""One parameter of a space: what the study stores for it, and the setting that a run gets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.errors import BadInput
from search.space.transform import Transform


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
            return self.choices.get(stored, stored)  # of a trial that others have added, it may be none of them
        return self.transform(stored) if self.transform else stored

    def exists_under(self, stored: Mapping[str, Any]) -> bool:
        return all(parent in stored and stored[parent] in accepted for parent, accepted in self.when.items())

    def extremes(self) -> list[Any]:
        """What to try before anything starts: both bounds, or every choice; as stored."""
        if self.choices:
            return list(self.choices)
        assert isinstance(self.distribution, (IntDistribution, FloatDistribution))
        return [self.distribution.low, self.distribution.high]

    @property
    def count(self) -> int | None:
        """How many values it has; None where they are not finitely many."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return len(choices)
            case IntDistribution() as d:
                return (d.high - d.low) // d.step + 1
            case FloatDistribution(step=float() as step) as d:
                return round((d.high - d.low) / step) + 1
        return None

    def points(self) -> Sequence[Any]:
        """All stored values of a parameter that has finitely many, none of them made before it is asked for;
        `BadInput` for others."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return list(choices)
            case IntDistribution() as d:
                return range(d.low, d.high + 1, d.step)
            case FloatDistribution(step=float()) as d:
                return Stepped(d.low, d.step or 0.0, self.count or 0)
        raise BadInput(f"space.{self.name} has no finite grid: the grid sampler needs choices, whole numbers or a step")

    def refuses(self, stored: Any) -> str | None:
        """Why `stored` is no value that the study can keep for it: what was got, and what it may be."""
        if contains(self.distribution, stored):
            return None
        may_be = f"one of {', '.join(map(show, self.choices))}" if self.choices else self.bounds()
        return f"{self.name} = {show(stored)}: it may be {may_be}"

    def bounds(self) -> str:
        """The values of a number, for people."""
        d = self.distribution
        assert isinstance(d, (IntDistribution, FloatDistribution))
        kind = "a whole number" if isinstance(d, IntDistribution) else "a number"
        stepped = f", by steps of {show(d.step)}" if d.step not in (None, 1) else ""
        return f"{kind} from {show(d.low)} to {show(d.high)}{stepped}" + (" (its x)" if self.transform else "")

    def stored_form(self, value: Any) -> Any:
        """What the study stores for a setting as users write it; `BadInput` where it is never so."""
        for stored, choice in self.choices.items():
            if same_value(choice, value) or same_value(stored, value):
                return stored
        if self.transform is not None:
            assert isinstance(self.distribution, (IntDistribution, FloatDistribution))
            x = self.transform.inverse(value, self.distribution) if is_number(value) else None
            if x is not None:
                return x
            low, high = (show(self.transform(at)) for at in self.extremes())
            raise BadInput(f"{self.name} = {show(value)}: no x gives that; its bounds give {low} and {high}")
        if self.choices:
            may_be = ", ".join(map(show, self.choices.values()))
            raise BadInput(f"{self.name} = {show(value)}: it may be one of {may_be}")
        if (refusal := self.refuses(value)) is not None:
            raise BadInput(refusal)
        return float(value) if isinstance(self.distribution, FloatDistribution) else int(value)

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
class Stepped(Sequence):
    """low, low + step, …: so many numbers, none of them made before it is asked for."""

    low: float
    step: float
    points: int

    def __len__(self) -> int:
        return self.points

    def __getitem__(self, at: Any) -> Any:
        if not 0 <= at < self.points:
            raise IndexError(at)
        return self.low + at * self.step


def contains(distribution: BaseDistribution, stored: Any) -> bool:
    """Whether a study can keep this value of the parameter; any value may be asked about."""
    if isinstance(distribution, CategoricalDistribution):
        return any(same_value(choice, stored) for choice in distribution.choices)
    if not is_number(stored) or isinstance(distribution, IntDistribution) and stored != int(stored):
        return False
    return bool(distribution._contains(distribution.to_internal_repr(stored)))


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(float_of(value))


def float_of(value: int | float) -> float:
    """Infinite for a whole number that no float can hold."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def same_value(one: Any, other: Any) -> bool:
    """1 is 1.0, but neither is true; a list is a tuple."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, tuple):
        one = list(one)
    return bool(one == (list(other) if isinstance(other, tuple) else other))


def show(value: Any) -> str:
    """A value for people: floats to six digits, texts without quotes."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)
