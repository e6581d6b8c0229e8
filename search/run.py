"""A whole search: `run_study("ppo-cartpole", ["study.trials=30"])` does what `python -m search run` does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from search.config import StudyConfig
from search.display import Display, open_display, plural
from search.driver import Driver
from search.result import Ending, StudyResult, collect
from search.space.widening import widened
from search.stop_requests import StopRequests
from search.strategies.proposals import Drawer
from search.study.budget import TrialBudget
from search.study.confirmed import Confirmation
from search.study.first import enqueue_first
from search.study.storage import open_storage, without_password
from search.study.study import best_trial, changed_settings, find_study, is_deleted, open_study
from search.trials.confirmation import confirm
from search.trials.context import StudyContext
from search.trials.prepared import Prepared, prepare
from search.trials.record import FAILURES_IN_A_ROW
from search.trials.runner import Runner


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
    prepared.launcher.open(prepared.config.trial.ranks)
    try:
        with StopRequests() as stop:
            return search(prepared, display, stop)
    finally:
        prepared.launcher.close()
        display.close()
        prepared.directory.unlock()


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
    if (pace := prepared.slots.pace.describe(prepared.slots.total)) is not None:
        display.event(pace)
    return result


def first_lines(prepared: Prepared, context: StudyContext, budget: TrialBudget) -> Iterator[str]:
    config, slots = prepared.config, prepared.slots
    hosts = ", ".join(f"{host.name}: {host.slots}" for host in slots.hosts)
    does = "resumes an interrupted run" if budget.resumes else "begins"
    yield (
        f"study {config.study.name} {does}: {plural(budget.left(0), 'trial')} of {plural(config.trial.ranks, 'rank')} "
        f"by {prepared.launcher.told} on {plural(slots.total, 'slot')} ({hosts})"
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
