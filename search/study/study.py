"""The Optuna study behind a search: opened or made, and refused where it holds another search."""

from __future__ import annotations

import uuid
import warnings
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from harness.errors import BadInput
from search.config import StudyConfig
from search.space.space import Space, same_space
from search.strategies.samplers import sampler_seed
from search.study.objective import Objective

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

OWNER = "directory"
"""User attribute: the trial's directory in the study's; before it, where several directories share a storage, which."""
AGAIN = "again"
"""User attribute of a trial that repeats another one's parameters: that one's number."""
OUTCOME = "outcome"
"""User attribute: done, pruned, diverged, stopped, failed or invalid; more than Optuna's states can say."""


def open_study(
    config: StudyConfig, space: Space, objective: Objective, storage: BaseStorage, called: str | None = None
) -> optuna.Study:
    """The study of this config, made where there is none; `BadInput` for one with another space or direction.

    `called`: its name in the storage, where its directory has another now.
    """
    name = called or config.study.name
    study = find_study(name, storage)
    if study is None:
        study = optuna.create_study(storage=storage, study_name=name, direction=config.study.direction)
    else:
        refuse_another(study, config, space)
    for key, value in (("id", uuid.uuid4().hex), ("space", space.describe())):
        if key not in study.user_attrs:
            study.set_user_attr(key, value)
    seed = sampler_seed(config.study.seed, len(study.get_trials(deepcopy=False)))
    study.sampler = config.study.sampler.build(space, seed)
    study.pruner = config.study.pruner.build(objective.steps)
    return study


def find_study(name: str, storage: BaseStorage) -> optuna.Study | None:
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None


def is_deleted(study: optuna.Study) -> bool:
    """Whether somebody has deleted it, as Optuna Dashboard's button does."""
    try:
        return study._storage.get_study_id_from_name(study.study_name) != study._study_id
    except KeyError:
        return True


def existing_study(name: str, storage: BaseStorage) -> optuna.Study:
    """The study of this name; `BadInput` that names those there are."""
    study = find_study(name, storage)
    if study is None:
        known = ", ".join(sorted(optuna.get_all_study_names(storage))) or "none"
        raise BadInput(f"there is no study {name!r} in this storage; it holds: {known}")
    return study


def refuse_another(study: optuna.Study, config: StudyConfig, space: Space) -> None:
    """`BadInput` where the trials of `study` answer another question than this config asks."""
    name, direction = config.study.name, study.direction.name.lower()
    if direction != config.study.direction:
        raise BadInput(
            f"study {name} exists with study.direction = {direction!r}, got {config.study.direction!r}: "
            "choose another study.name, or that direction"
        )
    described = study.user_attrs.get("space")
    if described is None:
        if study.get_trials(deepcopy=False):
            raise BadInput(f"study {name} exists and was not made by `search run`: choose another study.name")
        return
    difference = same_space(space.describe(), described)
    if difference is not None:
        raise BadInput(
            f"study {name} exists with another space ({difference}): choose another study.name, or that space"
        )


def changed_settings(study: optuna.Study, config: StudyConfig) -> list[str]:
    """What of the question itself is not as it was when the study was last run; its values may not compare."""
    before: dict[str, Any] = study.user_attrs.get("config", {})
    now = config.to_table()
    keys = [
        ("trial", "preset"),
        ("trial", "command"),
        ("trial", "overrides"),
        ("trial", "seeds"),
        ("objective", "aggregate"),
    ]
    return [
        f"{section}.{key} was {before.get(section, {}).get(key)}, is now {now[section].get(key)}"
        for section, key in keys
        if before and before.get(section, {}).get(key) != now[section].get(key)
    ]


def is_finished(trial: FrozenTrial) -> bool:
    """Whether it counts as one of the trials asked for: a stopped one does not, its parameters wait in another, nor
    does one that could not be run."""
    return trial.state.is_finished() and trial.user_attrs.get(OUTCOME) not in ("stopped", "invalid")


def enqueue_again(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Queues a trial with the parameters of this one, unless that was done before."""
    if any(other.user_attrs.get(AGAIN) == trial.number for other in study.get_trials(deepcopy=False)):
        return False
    study.enqueue_trial(trial.params, user_attrs={AGAIN: trial.number})
    return True


def frozen_trial(study: optuna.Study, number: int) -> FrozenTrial:
    """The trial of this number as the storage has it now."""
    return next(trial for trial in study.get_trials(deepcopy=False) if trial.number == number)


def worst_value(study: optuna.Study) -> float | None:
    """The worst value that any trial of the study has had or reported; None where there is none."""
    values = [
        value
        for trial in study.get_trials(deepcopy=False)
        for value in [*(trial.values or []), *trial.intermediate_values.values()]
    ]
    if not values:
        return None
    return min(values) if study.direction == optuna.study.StudyDirection.MAXIMIZE else max(values)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The best of the trials that were completed."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return study.best_trial if complete else None
