"""Wider bounds, or more choices, of a study that exists: its trials are kept, and its sampler learns from all of them.

Optuna keeps a parameter's distribution with each trial, takes none with other choices, and models together only what
all trials share. So the trials' distributions become the new ones; the values that they have are untouched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.storages import RDBStorage

from search.space.parameter import Parameter, show
from search.space.space import Space


def widened(study: optuna.Study, space: Space, storage: RDBStorage) -> tuple[Space, list[str]]:
    """The space, with its choices in the order that the study knows, and a line for each parameter that became wider.

    Where it is no wider form of the study's own nothing is changed: the study refuses it by itself.
    """
    described: dict[str, Any] | None = study.user_attrs.get("space")
    if described is None or set(described) != set(space.names):
        return space, []
    parameters = [in_known_order(parameter, described[parameter.name]) for parameter in space.parameters]
    changed = [parameter for parameter in parameters if not same(parameter, described[parameter.name])]
    if not all(is_wider(parameter, described[parameter.name]) for parameter in changed):
        return space, []
    space = Space(tuple(parameters))
    lines = [f"space.{p.name} was {describe(described[p.name])}, is now {describe(p.describe())}" for p in changed]
    if changed:
        with storage.engine.begin() as connection:
            for parameter in changed:
                connection.execute(UPDATE, {
                    "new": distribution_to_json(parameter.distribution), "name": parameter.name,
                    "study": study._study_id,
                })  # fmt: skip
        study.set_user_attr("space", space.describe())
    return space, lines


UPDATE = sqlalchemy.text(
    "UPDATE trial_params SET distribution_json = :new WHERE param_name = :name "
    "AND trial_id IN (SELECT trial_id FROM trials WHERE study_id = :study)"
)


def in_known_order(parameter: Parameter, described: Mapping[str, Any]) -> Parameter:
    """With the choices that the study knows first, in its order: a trial keeps the number of its choice."""
    if not parameter.choices or described["name"] != CategoricalDistribution.__name__:
        return parameter
    before = described["attributes"]["choices"]
    new = {key(choice): choice for choice in parameter.choices}
    if not all(key(choice) in new for choice in before):
        return parameter
    known = {key(choice) for choice in before}
    order = [new[key(choice)] for choice in before] + [c for c in parameter.choices if key(c) not in known]
    choices = {choice: parameter.choices[choice] for choice in order}
    return replace(parameter, choices=choices, distribution=CategoricalDistribution(order))


def is_wider(parameter: Parameter, described: Mapping[str, Any]) -> bool:
    """Whether all that the study's trials may have is still a value of it, and means the same."""
    now = parameter.describe()
    if any(now.get(kind) != described.get(kind) for kind in ("name", "transform", "when")):
        return False
    if parameter.choices:
        before = dict(zip(map(key, described["attributes"]["choices"]), described["values"]))
        after = {key(stored): value for stored, value in parameter.choices.items()}
        return all(stored in after and key(after[stored]) == key(value) for stored, value in before.items())
    old, new = distribution_of(described), parameter.distribution
    assert isinstance(old, (IntDistribution, FloatDistribution))
    assert isinstance(new, (IntDistribution, FloatDistribution))
    return old.log == new.log and new.low <= old.low and old.high <= new.high and on_grid(old, new)


def on_grid(old: IntDistribution | FloatDistribution, new: IntDistribution | FloatDistribution) -> bool:
    if new.step is None:
        return True
    if old.step is None:
        return False
    steps = (old.step / new.step, (old.low - new.low) / new.step)
    return all(abs(step - round(step)) < 1e-9 for step in steps)


def same(parameter: Parameter, described: Mapping[str, Any]) -> bool:
    return key(parameter.describe()) == key(described)


def key(value: Any) -> str:
    """Tells 1 from true and from 1.0, and lists from one another."""
    return json.dumps(value, sort_keys=True, default=str)


def distribution_of(described: Mapping[str, Any]) -> optuna.distributions.BaseDistribution:
    return json_to_distribution(json.dumps({"name": described["name"], "attributes": described["attributes"]}))


def describe(described: Mapping[str, Any]) -> str:
    """The values of a described parameter, for people."""
    if "values" in described:
        return "one of " + ", ".join(map(show, described["values"]))
    attributes = described["attributes"]
    return f"{show(attributes['low'])} to {show(attributes['high'])}"
