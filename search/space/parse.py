"""`[space]` as users write it, and the space that it means."""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import StrictFloat, StrictInt

from harness.errors import BadInput
from harness.settings import Settings, validate
from search.space.parameter import Parameter, show
from search.space.space import Space
from search.space.transform import Transform


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


OTHER_WORDS = {
    "min": "the least value is called low, the greatest high",
    "max": "the least value is called low, the greatest high",
    "lower": "the least value is called low, the greatest high",
    "upper": "the least value is called low, the greatest high",
    "values": "a list of values is called choices",
    "value": "a fixed value stands in [trial.overrides]",
    "distribution": "low and high are a uniform distribution, with log = true a logarithmic one; choices are a list",
    "q": "a quantum is called step",
}
"""How other tools call what a line of `[space]` says, and how it is called here."""


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
            numbers_or_choices = "{low = 0.1, high = 0.9} or {choices = [1, 2]}"
            such = f"{{choices = {value!r}}}" if isinstance(value, list) else numbers_or_choices
            raise BadInput(f"space.{name} must be a table such as {such}, got {value!r}")
        for word in value:
            if word in OTHER_WORDS and not isinstance(value[word], Mapping):
                raise BadInput(f"space.{name}.{word} is no setting; {OTHER_WORDS[word]}")
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
            check_numbers(name, line)
            if whole and line.type != "float":
                step = 1 if line.step is None else int(line.step)
                return IntDistribution(int(line.low), int(line.high), log=line.log, step=step)
            step_or_none = None if line.step is None else float(line.step)
            return FloatDistribution(float(line.low), float(line.high), log=line.log, step=step_or_none)
        except (ValueError, ArithmeticError, UserWarning) as error:
            raise BadInput(f"space.{name}: {' '.join(str(error).split())}") from None


def check_numbers(name: str, line: ParameterSettings) -> None:
    """`BadInput` for bounds and a step that do not go together, by their names and values."""
    low, high, step = line.low, line.high, line.step
    assert low is not None and high is not None
    if low > high:
        raise BadInput(f"space.{name}: `low <= high` must hold, got low = {low} and high = {high}")
    if line.log and low <= 0:
        raise BadInput(f"space.{name}.low must be > 0 with log = true, got {low}")
    if step is None:
        return
    if line.log:
        raise BadInput(f"space.{name} has log = true, so it cannot have a step; got step = {step}")
    if step <= 0:
        raise BadInput(f"space.{name}.step must be > 0, got {step}")
    steps = (Decimal(str(high)) - Decimal(str(low))) / Decimal(str(step))
    if steps != int(steps):
        last = Decimal(str(low)) + int(steps) * Decimal(str(step))
        raise BadInput(
            f"space.{name}.step = {step} does not lead from low = {low} to high = {high}: set high = {last}, the last "
            "value that it reaches, or another step"
        )


def name_choices(name: str, values: list[Any]) -> dict[Any, Any]:
    """Stored name -> value. Scalars stand for themselves; `[64, 64]` is stored as `64x64`, other things as JSON."""
    if not values:
        raise BadInput(f"space.{name}.choices must hold at least one value, got []")
    for value in values:
        if not is_plain(value):
            raise BadInput(f"space.{name}.choices may hold numbers, texts, booleans, lists and tables, got {value}")
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


def is_plain(value: Any) -> bool:
    """Whether JSON can hold it: TOML's dates and times it cannot."""
    if isinstance(value, Mapping):
        return all(is_plain(inner) for inner in value.values())
    return all(map(is_plain, value)) if isinstance(value, list) else value is None or is_scalar(value)


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
        if not accepted:
            raise BadInput(f"space.{child.name}.when: {parent} must have a value or a list of values, got []")
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
