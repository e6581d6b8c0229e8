"""The parameter space: what Optuna samples and stores, and the settings that a run gets from it.

Optuna keeps scalars only. So each parameter has two forms: what is *stored* in the study (a number, or the readable
name of a choice such as `64x64`) and the *setting* that a run gets (a list, or `1 - 10**x` of the stored `x`).
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.errors import BadInput
from search.space.transform import Transform

Stored = dict[str, Any]
Point = tuple[tuple[str, Any], ...]
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
        return self.draw(lambda parameter: parameter.suggest(trial))

    def draw(self, value_of: Callable[[Parameter], Any]) -> Stored:
        """The stored values of all parameters that exist, each as `value_of` gives it."""
        stored: Stored = {}
        for parameter in self.parameters:
            if parameter.exists_under(stored):
                stored[parameter.name] = value_of(parameter)
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

    @property
    def size(self) -> int | None:
        """How many points it has; None where they are not finitely many, or too many to list."""
        counts = [parameter.count for parameter in self.parameters]
        if any(count is None or count > MOST_GRID_POINTS for count in counts):
            return None
        try:
            return len(self.grid()) if self.conditional else listed(math.prod(count or 0 for count in counts))
        except BadInput:
            return None

    def grid(self) -> list[Stored]:
        """Every point of a finite space, without the parameters that do not exist there; `BadInput` for too many."""
        points: list[Stored] = [{}]
        for parameter in self.parameters:
            values = parameter.points()
            if len(values) > MOST_GRID_POINTS:
                raise too_many(f"space.{parameter.name} alone has {len(values)}")
            pairs = (
                {**point, **chosen}
                for point in points
                for chosen in ([{parameter.name: value} for value in values] if parameter.exists_under(point) else [{}])
            )
            points = list(itertools.islice(pairs, MOST_GRID_POINTS + 1))
            listed(len(points))
        return points

    def from_settings(self, settings: Mapping[str, Any]) -> Stored:
        """The stored values of settings as users write them (some or all of the space's); `BadInput` names one that is
        not in the space, has not that value, or does not exist beside the others."""
        by_name = {parameter.name: parameter for parameter in self.parameters}
        for name in settings:
            if name not in by_name:
                near = difflib.get_close_matches(name, by_name, n=1)
                may_be = f"did you mean {near[0]}?" if near else f"it may be one of {', '.join(by_name)}"
                raise BadInput(f"{name} is no parameter of the space; {may_be}")
        stored = {name: by_name[name].stored_form(settings[name]) for name in by_name if name in settings}
        self.check_conditions(stored)
        return stored

    def check_stored(self, stored: Mapping[str, Any]) -> None:
        """`BadInput` where something queued these values that the study cannot take as they are."""
        by_name = {parameter.name: parameter for parameter in self.parameters}
        for name, value in stored.items():
            if name not in by_name:
                near = difflib.get_close_matches(name, by_name, n=1)
                may_be = f"did you mean {near[0]}?" if near else f"it may be one of {', '.join(by_name)}"
                raise BadInput(f"{name} is no parameter of the space; {may_be}")
            if (refusal := by_name[name].refuses(value)) is not None:
                raise BadInput(refusal)
        self.check_conditions(stored)

    def check_conditions(self, stored: Mapping[str, Any]) -> None:
        """`BadInput` for a parameter that does not exist under the others that are given."""
        for parameter in self.parameters:
            for parent, accepted in parameter.when.items() if parameter.name in stored else ():
                if parent in stored and stored[parent] not in accepted:
                    only = " or ".join(map(show, accepted))
                    raise BadInput(f"{parameter.name} exists only where {parent} is {only}, not {show(stored[parent])}")

    def describe(self) -> dict[str, Any]:
        return {parameter.name: parameter.describe() for parameter in self.parameters}


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


def point_of(stored: Mapping[str, Any]) -> Point:
    """What makes two points the same; floats that differ in their last digits are the same number."""
    return tuple(
        sorted((name, float(f"{value:.12g}") if type(value) is float else value) for name, value in stored.items())
    )


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


def too_many(why: str) -> BadInput:
    return BadInput(
        f"the grid of this space has more than {MOST_GRID_POINTS} points ({why}): use another sampler, or a step"
    )


def listed(points: int) -> int:
    """`points` where so many can be listed, else `BadInput`."""
    if points > MOST_GRID_POINTS:
        raise too_many("all parameters together")
    return points


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
