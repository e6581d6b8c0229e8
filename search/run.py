"""A whole search: `run_study("ppo-cartpole", ["study.trials=30"])` does what `python -m search run` does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler

from harness.errors import BadInput
from harness.launching import Launcher, get_launcher, inside_launcher, read_hosts, slurm_hosts
from harness.settings import apply_overrides
from search.config import StudyConfig, load_study, resolve_study
from search.display import Display, one_line, open_display, plural
from search.driver import Driver
from search.launchers.slots import Slots
from search.result import Ending, StudyResult, collect
from search.space.constraints import Constraint, check_names, read_constraints
from search.space.parse import read_space
from search.space.space import Space, Stored, show
from search.space.widening import widened
from search.stop_requests import StopRequests
from search.strategies.proposals import Drawer
from search.study.budget import TrialBudget
from search.study.first import enqueue_first, read_first
from search.study.objective import Objective, search_seeds
from search.study.storage import check_url, open_storage, without_password
from search.study.study import best_trial, changed_settings, find_study, is_deleted, open_study
from search.study.study_dir import StudyDir
from search.trials.confirmation import Confirmation, confirm
from search.trials.context import StudyContext
from search.trials.record import FAILURES_IN_A_ROW
from search.trials.runner import Runner
from search.trials.task import Task, make_task

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


def run_study(
    study: str | Path | StudyConfig,
    overrides: Iterable[str] = (),
    *,
    name: str | None = None,
    storage: str | None = None,
    hostfile: str | Path | None = None,
    display: Display | None = None,
) -> StudyResult:
    """Runs a study from a preset, a TOML file or a config, and confirms its best trial; raises `BadInput`.

    Running it again adds trials to the same study; after an interruption it resumes with what was left.
    """
    prepared = prepare(study, overrides, name=name, storage=storage, hostfile=hostfile)
    display = display or open_display()
    try:
        with StopRequests() as stop:
            return search(prepared, display, stop)
    finally:
        display.close()
        prepared.directory.unlock()


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
    # horovodrun reaches other hosts by ssh, which an allocation need not allow; mpirun has Slurm's own means
    launcher = get_launcher(config.trial.launcher or ("mpirun" if "SLURM_JOB_ID" in os.environ else "horovodrun"))
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


def check_pruner(config: StudyConfig, objective: Objective) -> None:
    """`BadInput` for settings of a pruner that do not go together, in a line of ours."""
    try:
        config.study.pruner.build(objective.steps)
    except (ValueError, TypeError) as error:
        raise BadInput(f"study.pruner: {one_line(error)}") from None


def check_together(task: Task, constraints: Iterable[Constraint], settings: Mapping[str, Any], ranks: int) -> None:
    """`BadInput` for settings that a run would not take, or that do not fulfil a constraint of the study."""
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
        except BadInput:  # settings that a run would not take
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


def search(prepared: Prepared, display: Display, stop: StopRequests) -> StudyResult:
    """Runs the trials that are planned, then confirms the best of all."""
    config, directory = prepared.config, prepared.directory
    if config.study.storage is not None:
        open_storage(config.study.storage, create=True)  # before a directory is made for a study that cannot be kept
    directory.lock()
    directory.clear_requests()
    stop.watch(directory.stop_request, config.study.max_minutes)
    directory.check_storage(prepared.storage)
    called = config.study.name if config.study.storage is not None else directory.study
    storage = open_storage(prepared.storage, create=True)
    space = prepared.space
    wider: list[str] = []
    if (known := find_study(called, storage)) is not None:
        space, wider = widened(known, space, storage)
    study = open_study(config, space, prepared.objective, storage, called)
    directory.belongs_to(study.user_attrs["id"], without_password(prepared.storage))
    runner = Runner(config.study.name, prepared.task, prepared.launcher, config.trial)
    drawer = Drawer(study, space, prepared.check)
    context = StudyContext(
        config, study, space, drawer, prepared.objective, runner, prepared.slots, directory, display, stop
    )  # fmt: skip
    budget = TrialBudget(study, config.study.trials)
    for line in first_lines(prepared, context, budget):
        display.event(line)
    for change in wider:
        display.event(f"note: {change}; earlier trials are kept")
    enqueue_first(study, prepared.first)
    study.set_user_attr("config", config.model_dump(mode="json", exclude_none=True, exclude={"study": {"storage"}}))
    driver = Driver(context)
    driver.run(budget)
    try:
        confirmation, ending = confirm_best(context, driver, budget)
    except KeyError:
        if not is_deleted(study):
            raise
        driver.end_without_study()
        confirmation, ending = confirm_best(context, driver, budget)
    if driver.deleted is not None:  # the study's own result is gone with it
        return StudyResult(config.study.name, ending, directory.path, without_password(prepared.storage), {})
    result = collect(study, space, directory, prepared.storage, confirmation, ending)
    for line in result.lines():
        display.event(line)
    return result


def first_lines(prepared: Prepared, context: StudyContext, budget: TrialBudget) -> Iterator[str]:
    config, slots = prepared.config, prepared.slots
    hosts = ", ".join(f"{host.name}: {host.slots}" for host in slots.hosts)
    does = "resumes an interrupted run" if budget.resumes else "begins"
    yield (
        f"study {config.study.name} {does}: {plural(budget.left(0), 'trial')} of {plural(config.trial.ranks, 'rank')} "
        f"by {prepared.launcher.name} on {plural(slots.total, 'slot')} ({hosts})"
    )
    for change in changed_settings(context.study, config):
        yield f"note: {change}; values of earlier trials may not compare"


def confirm_best(context: StudyContext, driver: Driver, budget: TrialBudget) -> tuple[Confirmation | None, Ending]:
    """After the trials: the confirmation, where there is something to confirm, and how the search ended."""
    if driver.failure_streak.cause is not None:
        return None, Ending(
            "failed", f"{FAILURES_IN_A_ROW} trials in a row failed before a report: {driver.failure_streak.cause}"
        )
    if driver.deleted is not None:
        return None, Ending("failed", driver.deleted)
    if context.stop.count:
        return None, Ending("stopped", f"{context.stop.why}; run it again to resume")
    best = best_trial(context.study)
    if best is None:
        budget.done()
        return None, Ending("failed", "no trial was completed")
    confirmation = confirm(context, best)
    if context.stop.count and confirmation is None:
        return None, Ending("stopped", f"{context.stop.why}; run it again to confirm the best trial")
    budget.done()
    if confirmation is not None and confirmation.failures:
        return confirmation, Ending("failed", f"the confirmation is not complete: {confirmation.failures[0]}")
    return confirmation, Ending("done")
