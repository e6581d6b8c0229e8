"""What a driver that comes back finds: trials of its study that still run, are over, or never began."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from harness.errors import BadInput
from search.judging import End
from search.slots import Lease
from search.study import OUTCOME, OWNER, enqueue_again, frozen_trial
from search.telling import tell
from search.tools import Tools
from search.trial_dir import open_trial_dir
from search.trial_run import TrialRun

FORGOTTEN = timedelta(seconds=60)
"""A trial that nobody has made its own for so long lost its driver between two lines of code."""


def find_again(tools: Tools) -> tuple[list[TrialRun], list[optuna.Trial]]:
    """This driver's RUNNING trials: those whose jobs were started (they may be over), and those still to be launched.

    Those with a job hold their slots again. A trial of another driver on the same storage is left alone.
    """
    started, unborn = [], []
    for frozen in tools.study.get_trials(deepcopy=False):
        if frozen.user_attrs.get(OUTCOME) == "stopped" and frozen.state == TrialState.FAIL:
            enqueue_again(tools.study, frozen)  # where the driver before this one died before it had done so
        if frozen.state != TrialState.RUNNING or not is_ours(tools, frozen):
            continue
        trial = optuna.Trial(tools.study, frozen._trial_id)
        trial.set_user_attr(OWNER, str(tools.directory.trial(frozen.number)))
        directory = open_trial_dir(tools.directory.trial(frozen.number))
        if not directory.jobs:
            unborn.append(trial)
            continue
        lease = Lease.from_json(directory.jobs[max(directory.jobs)]["lease"])
        tools.slots.take(lease)
        run = TrialRun(trial, frozen.user_attrs["settings"], directory, lease, tools.objective, tools.runner)
        try:
            run.attach()
        except BadInput as error:  # its job is another host's, and cannot be seen from here
            give_up_if_silent(tools, run, error)
            continue
        started.append(run)
        tools.display.event(f"trial {frozen.number} was running when its driver ended: taken up again")
    return started, unborn


def give_up_if_silent(tools: Tools, run: TrialRun, error: BadInput) -> None:
    """Tells a trial whose host is gone (a requeued batch job, a new container) as failed, and queues it again.

    BadInput where its files say that it may still run there.
    """
    minutes = tools.config.trial.max_minutes
    written = [path.stat().st_mtime for path in run.directory.path.rglob("*") if path.is_file()]
    if time.time() - max(written, default=0.0) < 60 * minutes:
        raise BadInput(f"{error}, or here once its files were still for {minutes:g} minutes (trial.max_minutes)")
    tools.slots.give_back(run.lease)
    tell(tools.study, run, End("failed", reason="its host is gone"), tools.config.objective.on_divergence)
    enqueue_again(tools.study, frozen_trial(tools.study, run.number))
    tools.display.event(f"trial {run.number} ran on a host that is gone: failed, its parameters are queued again")


def is_ours(tools: Tools, frozen: FrozenTrial) -> bool:
    owner = frozen.user_attrs.get(OWNER)
    if owner is not None:
        return Path(owner).parent == tools.directory.path
    alone = tools.config.study.storage is None  # then the lock on the directory is one on the storage too
    return alone or datetime.now() - (frozen.datetime_start or datetime.now()) > FORGOTTEN
