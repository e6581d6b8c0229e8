"""The parameter space: what Optuna samples and stores, and the settings that a run gets from it.

Optuna keeps scalars only. So each parameter has two forms: what is *stored* in the study (a number, or the readable
name of a choice such as `64x64`) and the *setting* that a run gets (a list, or `1 - 10**x` of the stored `x`).
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna

from harness.errors import BadInput
from search.space.parameter import Parameter, show

Stored = dict[str, Any]
Point = tuple[tuple[str, Any], ...]
MOST_GRID_POINTS = 100_000


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
            return len(self.grid()) if self.conditional else checked_size(math.prod(count or 0 for count in counts))
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
            checked_size(len(points))
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
        """`BadInput` for queued values that the study cannot store."""
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


def point_of(stored: Mapping[str, Any]) -> Point:
    """What makes two points the same; floats that differ in their last digits are the same number."""
    return tuple(
        sorted((name, float(f"{value:.12g}") if type(value) is float else value) for name, value in stored.items())
    )


def too_many(why: str) -> BadInput:
    return BadInput(
        f"the grid of this space has more than {MOST_GRID_POINTS} points ({why}): use another sampler, or a step"
    )


def checked_size(points: int) -> int:
    """`points` where so many can be listed, else `BadInput`."""
    if points > MOST_GRID_POINTS:
        raise too_many("all parameters together")
    return points


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
