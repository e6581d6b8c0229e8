"""After a restart of the driver: trials of its study that still run, are over, or were never launched."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from harness.errors import BadInput
from search.launchers.lease import Lease
from search.study.study import OUTCOME, OWNER, enqueue_again, frozen_trial
from search.trial_dir import open_trial_dir
from search.trials.context import StudyContext
from search.trials.outcome import End
from search.trials.record import record_outcome
from search.trials.trial_run import TrialRun

OWNERLESS = timedelta(seconds=60)
"""A trial that no driver has claimed for so long lost its own between two lines of code."""


def recover(context: StudyContext) -> tuple[list[TrialRun], list[optuna.Trial]]:
    """This driver's RUNNING trials: those whose jobs were started (they may be over), and those still to be launched.

    Those with a job hold their slots again. A trial of another driver on the same storage is left alone.
    """
    started, unlaunched = [], []
    for frozen in context.study.get_trials(deepcopy=False):
        if frozen.user_attrs.get(OUTCOME) == "stopped" and frozen.state == TrialState.FAIL:
            enqueue_again(context.study, frozen)  # where the driver before this one died before it had done so
        if frozen.state.is_finished() and OUTCOME not in frozen.user_attrs:
            end_job_of_finished(context, frozen)
        if frozen.state != TrialState.RUNNING or not is_ours(context, frozen):
            continue
        trial = optuna.Trial(context.study, frozen._trial_id)
        trial.set_user_attr(OWNER, owner_of(context, frozen.number))
        directory = open_trial_dir(context.directory.trial(frozen.number))
        if not directory.jobs or "settings" not in frozen.user_attrs:
            unlaunched.append(trial)
            continue
        if context.directory.copied:
            give_up(context, trial)
            continue
        lease = Lease.from_json(directory.jobs[max(directory.jobs)]["lease"])
        context.slots.claim(lease)
        run = TrialRun(trial, frozen.user_attrs["settings"], directory, lease, context.objective, context.runner)
        try:
            run.attach()
        except BadInput as error:  # its job is another host's, and cannot be seen from here
            give_up_lost_host(context, run, error)
            continue
        started.append(run)
        context.display.event(f"trial {frozen.number} was running when its driver ended: its job is watched again")
    return started, unlaunched


def end_job_of_finished(context: StudyContext, frozen: FrozenTrial) -> None:
    """Ends what may still run of a trial that others finished while it had no driver: its slots are given to others."""
    directory = open_trial_dir(context.directory.trial(frozen.number))
    if not directory.jobs or context.directory.copied or not is_ours(context, frozen):
        return
    with suppress(BadInput):  # another host's
        context.runner.find(directory, max(directory.jobs)).end_now("finished from outside")


def give_up(context: StudyContext, trial: optuna.Trial) -> None:
    """A trial that ran where this directory was copied from: what becomes of it there is not this study's."""
    trial.set_user_attr(OUTCOME, "stopped")
    trial.set_user_attr("reason", "it ran in the directory that this one was copied from")
    context.study.tell(trial, state=TrialState.FAIL)
    enqueue_again(context.study, frozen_trial(context.study, trial.number))
    context.display.event(
        f"trial {trial.number} runs where this study was copied from: its parameters are queued again"
    )


def give_up_lost_host(context: StudyContext, run: TrialRun, error: BadInput) -> None:
    """Records a trial whose host is gone (a requeued batch job, a new container) as failed, and queues it again.

    BadInput where its files say that it may still run there.
    """
    minutes = context.config.trial.max_minutes
    written = [path.stat().st_mtime for path in run.directory.path.rglob("*") if path.is_file()]
    if time.time() - max(written, default=0.0) < 60 * minutes:
        raise BadInput(f"{error}, or here once its files have not changed for {minutes:g} minutes (trial.max_minutes)")
    context.slots.give_back(run.lease)
    record_outcome(context.study, run, End("failed", reason="its host is gone"), context.config.objective.on_divergence)
    enqueue_again(context.study, frozen_trial(context.study, run.number))
    context.display.event(f"trial {run.number} ran on a host that is gone: failed, its parameters are queued again")


def owner_of(context: StudyContext, number: int) -> str:
    """How the study stores in which directory a trial lies: relative to its own, wherever that is moved to."""
    name = context.directory.trial(number).name
    return name if context.config.study.storage is None else f"{context.directory.identity}/{name}"


def is_ours(context: StudyContext, frozen: FrozenTrial) -> bool:
    owner = frozen.user_attrs.get(OWNER)
    if context.config.study.storage is None:  # then the lock on the directory is one on the storage too
        return True
    if owner is not None:
        path = Path(owner)  # the whole path in studies of before
        return (
            path.parent == context.directory.path if path.is_absolute() else owner == owner_of(context, frozen.number)
        )
    return datetime.now() - (frozen.datetime_start or datetime.now()) > OWNERLESS
