"""How the end of a trial is recorded in the study, and which failures in a row stop it."""

from __future__ import annotations

import re
import time

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from search.study.study import OUTCOME, enqueue_again, frozen_trial, worst_value
from search.trials.outcome import End
from search.trials.trial_run import TrialRun

FAILURES_IN_A_ROW = 3


def record_outcome(study: optuna.Study, run: TrialRun, end: End, on_divergence: str) -> None:
    """Records how the trial ended. A stopped one is recorded as failed, and its parameters are queued again."""
    notes = {
        OUTCOME: end.status,
        "reason": end.reason,
        "last_lines": list(end.last_lines),
        "seconds": round(time.time() - run.began, 1),
        "values": run.values,
    }
    for key, value in notes.items():
        if value not in ("", []):
            run.trial.set_user_attr(key, value)
    value, state = value_and_state(study, end, on_divergence)
    try:
        study.tell(run.trial, value, state)
    except ValueError:  # how `tell` refuses a trial that others have finished
        if not frozen_trial(study, run.number).state.is_finished():
            raise
        raise UpdateFinishedTrialError(f"trial {run.number} was finished by others") from None
    if end.status == "stopped":
        enqueue_again(study, frozen_trial(study, run.number))


def value_and_state(study: optuna.Study, end: End, on_divergence: str) -> tuple[float | None, TrialState]:
    """The arguments of Optuna's `tell`, which gives a pruned trial the value of its last report itself."""
    if end.status == "done":
        return end.value, TrialState.COMPLETE
    if end.status == "pruned":
        return None, TrialState.PRUNED
    if end.status != "diverged" or on_divergence == "fail":
        return None, TrialState.FAIL
    worst = worst_value(study) if on_divergence == "worst" else None
    return (None, TrialState.PRUNED) if worst is None else (worst, TrialState.COMPLETE)


class FailureStreak:
    """Failures before a trial's first report: of the script, the machine, or settings that all trials share.

    `cause` is set once so many in a row had the same one.
    """

    def __init__(self) -> None:
        self.cause: str | None = None
        self._kind = ""
        self._count = 0

    def reset(self) -> None:
        """A trial came to a report, or to an end that is no failure."""
        self._count = 0

    def add(self, end: End) -> None:
        kind = kind_of(end.reason)
        self._count = self._count + 1 if kind == self._kind else 1
        self._kind = kind
        if self._count == FAILURES_IN_A_ROW:
            self.cause = end.reason


def kind_of(reason: str) -> str:
    """The reason without what differs between trials with one cause: which rank, where, and all numbers."""
    reason = re.sub(r"rank \d+( on \S+)?", "rank", reason)
    return re.sub(r"0x[0-9a-f]+|-?\d+(\.\d+)?(e[-+]?\d+)?", "#", reason)
