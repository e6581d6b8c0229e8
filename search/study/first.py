"""`[[study.first]]`: settings that a study tries before its sampler proposes any."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optuna
from optuna.samplers import PartialFixedSampler, RandomSampler

from harness.errors import BadInput
from search.space.space import Space, Stored

FIRST = "first"
"""User attribute of a trial that was queued by it: its parameters, as JSON."""
DRAWS = 20


def read_first(
    entries: Iterable[Mapping[str, Any]], space: Space, check: Callable[[Mapping[str, Any]], None]
) -> list[Stored]:
    """Each entry as the study stores it; `BadInput` for one whose settings the space has not, or that cannot be run."""
    found = []
    for number, entry in enumerate(entries, start=1):
        try:
            stored = space.from_settings(flat(entry, space.names))
            if not stored:
                raise BadInput(f"names no parameter; it may hold {', '.join(space.names)}")
            check_runs(stored, space, check)
        except BadInput as error:
            raise BadInput(f"study.first, number {number}: {error}") from None
        found.append(stored)
    return found


def flat(entry: Mapping[str, Any], names: Iterable[str], prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value; nested tables are sections, unless a parameter of that name has tables for choices."""
    settings: dict[str, Any] = {}
    for key, value in entry.items():
        name = prefix + key
        if isinstance(value, Mapping) and name not in names:
            settings |= flat(value, names, f"{name}.")
        else:
            settings[name] = value
    return settings


def check_runs(stored: Stored, space: Space, check: Callable[[Mapping[str, Any]], None]) -> None:
    """`BadInput` where no draw of what is left open can be run together with it."""
    study = optuna.create_study(sampler=PartialFixedSampler(stored, RandomSampler(seed=0)))
    for last in range(DRAWS):
        drawn = space.suggest(study.ask())
        for name in stored:
            if name not in drawn:
                raise BadInput(f"{name} exists only beside other values; name them too")
        try:
            return check(space.settings(drawn))
        except BadInput:
            if last == DRAWS - 1 or drawn.keys() == stored.keys():
                raise


def enqueue_first(study: optuna.Study, first: Iterable[Stored]) -> int:
    """Queues those that the study has not queued before; how many."""
    before = {trial.user_attrs.get(FIRST) for trial in study.get_trials(deepcopy=False)}
    new = {json.dumps(stored, sort_keys=True): stored for stored in first}
    queued = [(text, stored) for text, stored in new.items() if text not in before]
    for text, stored in queued:
        study.enqueue_trial(stored, user_attrs={FIRST: text})
    return len(queued)
