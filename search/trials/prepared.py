"""A search before it starts: everything is checked that can be while nothing has been made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler

from harness.errors import BadInput
from harness.launching import Launcher, can_be_had, get_launcher, inside_launcher, read_hosts, slurm_hosts
from harness.settings import apply_overrides
from harness.text import one_line
from search.config import StudyConfig, dotted, load_study, resolve_study
from search.launchers.slots import Slots
from search.space.constraints import Constraint, check_names, read_constraints
from search.space.parameter import show
from search.space.parse import read_space
from search.space.space import Space, Stored
from search.study.first import read_first
from search.study.objective import Objective, search_seeds
from search.study.storage import check_url
from search.study.study_dir import StudyDir
from search.trials.command_task import CommandTask
from search.trials.task import Task

CONSTRAINED_DRAWS = 1000


@dataclass(frozen=True)
class Prepared:
    """A search of which everything has been checked that can be before anything is made or started."""

    config: StudyConfig
    space: Space
    task: Task
    objective: Objective
    slots: Slots
    launcher: Launcher
    directory: StudyDir
    constraints: tuple[Constraint, ...] = ()
    first: tuple[Stored, ...] = ()
    """What is tried before the sampler proposes, as stored."""

    def check(self, settings: Mapping[str, Any]) -> None:
        """`BadInput` for settings that cannot be run together."""
        check_together(self.task, self.constraints, settings, self.config.trial.ranks)

    @property
    def storage(self) -> str:
        return self.config.study.storage or self.directory.database


def prepare(
    study: str | Path | StudyConfig,
    overrides: Iterable[str] = (),
    *,
    name: str | None = None,
    storage: str | None = None,
    hostfile: str | Path | None = None,
) -> Prepared:
    """Checks everything that can be checked while nothing has been made; `BadInput` names what is wrong."""
    outer = inside_launcher(os.environ)
    if outer is not None:
        raise BadInput(
            f"a search is one process, which starts the ranks of its trials itself: not to be run under {outer}"
        )
    config = read_config(study, overrides, name, storage)
    space = read_space(config.space)
    if not space.parameters:
        raise BadInput(
            'space is empty: it names the settings to search, such as "optimizer.lr" = {low = 1e-5, high = 1e-2}'
        )
    launcher = get_launcher(config.trial.launcher or default_launcher(config))
    allocation = slurm_hosts(os.environ)
    hosts = read_hosts(hostfile) if hostfile is not None else allocation
    slots = Slots(launcher.capacity(hosts or [], config.trial.ranks, config.trial.cores))
    slots.check(config.trial.ranks)
    launcher.check(slots.hosts)
    task = make_task(config)
    task.check(space, config.trial.ranks)
    config.study.sampler.build(space, 0)  # refuses a space that it cannot search
    objective = Objective(
        search_seeds(config.study.seed, config.trial.seeds), task.evaluations, config.objective.aggregate
    )  # fmt: skip
    check_pruner(config, objective)
    if config.study.storage is not None:
        check_url(config.study.storage)
    constraints = read_constraints(config.study.constraints)
    check_constraints(task, constraints, space)
    prepared = Prepared(
        config, space, task, objective, slots, launcher, StudyDir(config.study.name), tuple(constraints)
    )  # fmt: skip
    return replace(prepared, first=tuple(read_first(config.study.first, space, prepared.check)))


def default_launcher(config: StudyConfig) -> str:
    if "SLURM_JOB_ID" in os.environ:
        return "mpirun"  # horovodrun reaches other hosts by ssh, which an allocation need not allow
    return "pool" if config.trial.preset is not None and can_be_had() else "horovodrun"


def check_pruner(config: StudyConfig, objective: Objective) -> None:
    """`BadInput`, in one line, for settings of a pruner that exclude each other."""
    try:
        config.study.pruner.build(objective.steps)
    except (ValueError, TypeError) as error:
        raise BadInput(f"study.pruner: {one_line(error)}") from None


def check_together(task: Task, constraints: Iterable[Constraint], settings: Mapping[str, Any], ranks: int) -> None:
    """`BadInput` for settings that a run would refuse, or that do not fulfil a constraint of the study."""
    values = task.values(settings) if constraints else {}
    for constraint in constraints:
        if not constraint.holds(values):
            had = ", ".join(f"{name} = {show(values[name])}" for name in sorted(constraint.names) if name in values)
            raise BadInput(f"study.constraints {constraint.text!r} does not hold with {had}")
    task.check_settings(settings, ranks)


def check_constraints(task: Task, constraints: list[Constraint], space: Space) -> None:
    """`BadInput` for a constraint about settings that no trial has, or for several that no draw fulfils."""
    if not constraints:
        return
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    last, known = "", set(space.names)
    for _ in range(CONSTRAINED_DRAWS):
        settings = space.settings(space.suggest(study.ask()))
        try:
            values = task.values(settings)
        except BadInput:  # settings that a run would refuse
            continue
        known |= set(values)
        check_names(constraints, known)
        broken = [constraint.text for constraint in constraints if not constraint.holds(values)]
        if not broken:
            return
        last = broken[0]
    if last:
        raise BadInput(f"study.constraints: none of {CONSTRAINED_DRAWS} draws fulfils {last!r}")


def read_config(
    study: str | Path | StudyConfig, overrides: Iterable[str], name: str | None, storage: str | None
) -> StudyConfig:
    if not isinstance(study, StudyConfig):
        return load_study(study, overrides, {"name": name, "storage": storage})
    table = apply_overrides(study.to_table(), overrides)
    table["study"].update({key: value for key, value in (("name", name), ("storage", storage)) if value is not None})
    return resolve_study(table)


def make_task(config: StudyConfig) -> Task:
    trial, fixed = config.trial, dotted(config.trial.overrides)
    if trial.command is not None:
        if trial.seeds > 1 and config.objective.evaluations is None:
            raise BadInput(
                "objective.evaluations is missing: for a command with trial.seeds > 1, the most reports of one seed"
            )
        command = CommandTask(trial.command, fixed, config.objective.evaluations)
        command.check_seeds(trial.seeds, config.confirm.seeds)
        return command
    assert trial.preset is not None
    if config.objective.evaluations is not None:
        raise BadInput("objective.evaluations is for commands; a preset's is trial.overrides.evaluation.count")
    from search.trials.preset_task import PresetTask  # loads torch, which the search of a command does without

    return PresetTask(trial.preset, fixed)
