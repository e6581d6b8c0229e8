"""The parameter space: from `[space]` to Optuna's distributions, and from what Optuna stores to settings.

Optuna keeps scalars only. So each parameter has two forms: what is *stored* in the study (a number, or the readable
name of a choice such as `64x64`) and the *setting* that a run gets (a list, or `1 - 10**x` of the stored `x`).
"""

from __future__ import annotations

import difflib
import itertools
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import StrictFloat, StrictInt

from harness.errors import BadInput
from harness.settings import Settings, validate
from search.transform import Transform

Stored = dict[str, Any]
MOST_GRID_POINTS = 100_000


class ParameterSettings(Settings):
    """One line of `[space]`: either `choices`, or `low` and `high`."""

    low: StrictInt | StrictFloat | None = None
    """The least value, included. Two whole numbers make a whole-number parameter."""
    high: StrictInt | StrictFloat | None = None
    """The greatest value, included."""
    log: bool = False
    """Sample on a logarithmic scale."""
    step: StrictInt | StrictFloat | None = None
    """Only low, low + step, low + 2 step, …"""
    type: Literal["float", "int"] | None = None
    """`float` where both bounds are whole numbers but what lies between them counts too."""
    choices: list[Any] | None = None
    """One of these: numbers, texts, booleans, lists or tables."""
    when: dict[str, Any] = {}
    """The parameter exists only where each parent named here has this value, or one of this list of values."""
    transform: str | None = None
    """A formula of the sampled x, such as `1 - 10**x`; the setting gets its value, the study keeps x."""


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


def read_space(table: Mapping[str, Any]) -> Space:
    """`[space]` as it stands in TOML; names may be quoted (`"optimizer.lr"`) or nested (`optimizer.lr`)."""
    parameters = {name: read_parameter(name, line) for name, line in flatten(table).items()}
    return Space(tuple(in_order(parameters)))


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Dotted name -> its line. An override `space.optimizer.lr.low=…` is merged into the quoted name's line."""
    lines: dict[str, dict[str, Any]] = {}
    for key, value in table.items():
        name = prefix + key
        if not isinstance(value, Mapping):
            raise BadInput(
                f"space.{name} must be a table such as {{low = 0.1, high = 0.9}} or {{choices = [1, 2]}}, got {value!r}"
            )
        if not value or set(value) & set(ParameterSettings.model_fields):
            lines.setdefault(name, {}).update(value)
        else:
            for nested, line in flatten(value, f"{name}.").items():
                lines.setdefault(nested, {}).update(line)
    return lines


def read_parameter(name: str, table: Mapping[str, Any]) -> Parameter:
    line = validate(ParameterSettings, table, prefix=f"space.{name}")
    numeric = {"low", "high", "log", "step", "type", "transform"} & line.model_fields_set
    if line.choices is not None:
        if numeric:
            raise BadInput(f"space.{name} has choices, so it cannot have {', '.join(sorted(numeric))} as well")
        choices = name_choices(name, line.choices)
        return Parameter(name, CategoricalDistribution(list(choices)), choices, when=wrapped(line.when))
    if line.low is None or line.high is None:
        raise BadInput(f"space.{name} needs low and high, or choices")
    transform = None
    if line.transform is not None:
        try:
            transform = Transform(line.transform)
            transform(line.low), transform(line.high)
        except BadInput as error:
            raise BadInput(f"space.{name}: {error}") from None
    return Parameter(name, numeric_distribution(name, line), transform=transform, when=wrapped(line.when))


def numeric_distribution(name: str, line: ParameterSettings) -> BaseDistribution:
    assert line.low is not None and line.high is not None
    bounds = [bound for bound in (line.low, line.high, line.step) if bound is not None]
    whole = all(isinstance(bound, int) for bound in bounds)
    if line.type == "int" and not whole:
        raise BadInput(f"space.{name}: type is int, but its bounds and step {bounds} are not all whole numbers")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna moves a bound that the step does not reach, with a warning
        try:
            if whole and line.type != "float":
                step = 1 if line.step is None else int(line.step)
                return IntDistribution(int(line.low), int(line.high), log=line.log, step=step)
            step_or_none = None if line.step is None else float(line.step)
            return FloatDistribution(float(line.low), float(line.high), log=line.log, step=step_or_none)
        except (ValueError, UserWarning) as error:
            raise BadInput(f"space.{name}: {' '.join(str(error).split())}") from None


def name_choices(name: str, values: list[Any]) -> dict[Any, Any]:
    """Stored name -> value. Scalars stand for themselves; `[64, 64]` is stored as `64x64`, other things as JSON."""
    if not values:
        raise BadInput(f"space.{name}.choices must hold at least one value, got []")
    readable = [readable_choice(value) for value in values]
    keys = [(type(choice), choice) for choice in readable]
    if len({str(choice) for choice in readable}) < len(values):  # such as "64x64" beside [64, 64], or 1 beside "1"
        readable = [value if is_scalar(value) else json.dumps(value) for value in values]
        keys = [(type(choice), choice) for choice in readable]
    if len(set(keys)) < len(values) or len(set(readable)) < len(values):
        raise BadInput(f"space.{name}.choices holds a value twice: {values}")
    return dict(zip(readable, values))


def is_scalar(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str))


def readable_choice(value: Any) -> Any:
    if is_scalar(value):
        return value
    if isinstance(value, list) and value and all(type(element) is int for element in value):
        return "x".join(map(str, value))
    return json.dumps(value, default=str)


def in_order(parameters: Mapping[str, Parameter]) -> list[Parameter]:
    """Parents before children; `BadInput` for a parent that is not there, never has the value, or is a descendant."""
    ordered: dict[str, Parameter] = {}
    waiting = dict(parameters)
    for child in parameters.values():
        for parent in child.when:
            if parent not in parameters:
                near = difflib.get_close_matches(parent, parameters, n=1) or [f"one of {', '.join(parameters)}"]
                raise BadInput(f"space.{child.name}.when names {parent}, which is not in the space; may be {near[0]}")
    while waiting:
        ready = [child for child in waiting.values() if all(parent in ordered for parent in child.when)]
        if not ready:
            raise BadInput(f"space: the conditions (when) of {', '.join(waiting)} depend on each other")
        for child in ready:
            ordered[child.name] = with_stored_conditions(child, ordered)
            del waiting[child.name]
    return list(ordered.values())


def wrapped(when: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {parent: (value,) for parent, value in when.items()}


def with_stored_conditions(child: Parameter, parameters: Mapping[str, Parameter]) -> Parameter:
    """`when` names a parent's value as the setting has it, or a list of values; what is compared is what is stored."""
    when = {}
    for parent, (written,) in child.when.items():
        is_one_choice = written in parameters[parent].choices.values()  # a list may be a single choice itself
        accepted = written if isinstance(written, list) and not is_one_choice else [written]
        when[parent] = tuple(stored_form(child, parameters[parent], value) for value in accepted)
    return Parameter(child.name, child.distribution, child.choices, child.transform, when)


def stored_form(child: Parameter, parent: Parameter, value: Any) -> Any:
    for stored, choice in parent.choices.items():
        if type(value) is type(choice) and value == choice or type(value) is type(stored) and value == stored:
            return stored
    if not parent.choices and type(value) in (int, float):
        if parent.distribution._contains(parent.distribution.to_internal_repr(value)):
            return value
    may_be = ", ".join(map(show, parent.choices)) or str(parent.distribution)
    raise BadInput(f"space.{child.name}.when: {parent.name} is never {show(value)}; it may be {may_be}")


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
