"""A whole search: `run_study("ppo-cartpole", ["study.trials=30"])` does what `python -m search run` does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BadInput
from harness.launching import Host, Launcher, get_launcher, inside_launcher, read_hosts, slurm_hosts
from harness.settings import apply_overrides
from search.config import StudyConfig, load_study, resolve_study
from search.confirm import Confirmation, confirm
from search.display import Display, open_display
from search.driver import Driver
from search.objective import Objective, search_seeds
from search.plan import Plan
from search.read_space import read_space
from search.result import Ending, StudyResult, collect
from search.seed_run import Runner
from search.signals import StopRequests
from search.slots import Slots, local_slots
from search.space import Space
from search.storage import open_storage, without_password
from search.study import best_trial, changed_settings, open_study
from search.study_dir import StudyDir
from search.task import Task, make_task
from search.telling import FAULTS_IN_A_ROW
from search.tools import Tools


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

    Running it again adds trials to the same study; after an interruption it goes on with what was left.
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
    allocation = slurm_hosts(os.environ)
    hosts = read_hosts(hostfile) if hostfile is not None else allocation
    slots = Slots(hosts or [Host("localhost", local_slots(config.trial.cores, config.trial.ranks))])
    slots.check(config.trial.ranks)
    # horovodrun reaches other hosts by ssh, which an allocation need not allow; mpirun has Slurm's own means
    launcher = get_launcher(config.trial.launcher or ("mpirun" if "SLURM_JOB_ID" in os.environ else "horovodrun"))
    launcher.check(slots.hosts)
    task = make_task(config)
    task.check(space, config.trial.ranks)
    config.study.sampler.build(space, 0)  # refuses a space that it cannot search
    objective = Objective(
        search_seeds(config.study.seed, config.trial.seeds), task.evaluations, config.objective.aggregate
    )  # fmt: skip
    return Prepared(config, space, task, objective, slots, launcher, StudyDir(config.study.name))


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
    study = open_study(config, prepared.space, prepared.objective, open_storage(prepared.storage, create=True))
    directory.belongs_to(study.user_attrs["id"], without_password(prepared.storage))
    runner = Runner(config.study.name, prepared.task, prepared.launcher, config.trial)
    tools = Tools(
        config, study, prepared.space, prepared.objective, runner, prepared.slots, directory, display, stop
    )  # fmt: skip
    plan = Plan(study, config.study.trials)
    for line in first_lines(prepared, tools, plan):
        display.event(line)
    study.set_user_attr("config", config.model_dump(mode="json", exclude_none=True, exclude={"study": {"storage"}}))
    driver = Driver(tools)
    driver.run(plan)
    confirmation, ending = confirm_best(tools, driver, plan)
    result = collect(study, prepared.space, directory, prepared.storage, confirmation, ending)
    for line in result.lines():
        display.event(line)
    return result


def first_lines(prepared: Prepared, tools: Tools, plan: Plan) -> Iterator[str]:
    config, slots = prepared.config, prepared.slots
    hosts = ", ".join(f"{host.name}: {host.slots}" for host in slots.hosts)
    does = "goes on with an interrupted run" if plan.goes_on else "begins"
    yield (
        f"study {config.study.name} {does}: {plan.left(0)} trials of {config.trial.ranks} ranks by "
        f"{prepared.launcher.name} on {slots.total} slots ({hosts})"
    )
    for change in changed_settings(tools.study, config):
        yield f"note: {change}; values of earlier trials may not compare"


def confirm_best(tools: Tools, driver: Driver, plan: Plan) -> tuple[Confirmation | None, Ending]:
    """After the trials: the confirmation, where there is something to confirm, and how the search ended."""
    if driver.faults.cause is not None:
        return None, Ending(
            "failed", f"{FAULTS_IN_A_ROW} trials in a row failed before a report: {driver.faults.cause}"
        )
    if tools.stop.count:
        return None, Ending("stopped", "stopped on request; run it again to go on")
    best = best_trial(tools.study)
    if best is None:
        plan.done()
        return None, Ending("failed", "no trial was completed")
    confirmation = confirm(tools, best)
    if tools.stop.count and confirmation is None:
        return None, Ending("stopped", "stopped on request; run it again to confirm the best trial")
    plan.done()
    if confirmation is not None and confirmation.failures:
        return confirmation, Ending("failed", f"the confirmation is not complete: {confirmation.failures[0]}")
    return confirmation, Ending("done")
