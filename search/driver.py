"""The trials of a study: ask -> launch -> watch -> tell, for as many at once as there are slots. Restartable."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from harness.errors import BadInput
from harness.files import write_text
from search.display import Row, duration, number, plural
from search.launchers.lease import Lease
from search.strategies.proposals import NothingLeft
from search.study.budget import TrialBudget
from search.study.storage import first_line
from search.study.study import OUTCOME, OWNER, enqueue_again, frozen_trial, is_deleted
from search.trial_dir import TrialDir
from search.trials.context import StudyContext
from search.trials.event_loop import EventLoop
from search.trials.outcome import End
from search.trials.record import FailureStreak, record_outcome
from search.trials.recovery import owner_of, recover
from search.trials.retention import tidy
from search.trials.trial_run import TrialRun

LONGEST_REASON = 1000  # characters: what was queued may be of any length, and some databases take 2 KB
LOOK_SECONDS = 1.0  # between two looks at what others did: a question to the storage, files that may lie elsewhere


class Driver(EventLoop[TrialRun]):
    """Runs trials until the budget is spent, a stop is requested, or three in a row failed for the same cause."""

    def __init__(self, context: StudyContext) -> None:
        super().__init__(context)
        self.study = context.study
        self.unlaunched: list[optuna.Trial] = []
        """Trials that were asked for by a driver that died before it launched them."""
        self.left = 0
        self.failure_streak = FailureStreak()
        self.deleted: str | None = None
        """That the study was deleted while it ran."""
        self.nothing_left: str | None = None
        """Why no more trials can be drawn, where some were asked for."""
        self._next_look = 0.0

    def run(self, budget: TrialBudget) -> None:
        try:
            self.running, self.unlaunched = recover(self.context)
            self.left = budget.left(len(self.running) + len(self.unlaunched))
            self.run_all()
        except KeyError:
            if not is_deleted(self.study):
                raise
            self.end_without_study()
        if self.nothing_left is not None and not self.ending:
            self.context.display.event(f"no more trials: {self.nothing_left}")

    @property
    def ending(self) -> bool:
        return super().ending or self.failure_streak.cause is not None or self.deleted is not None

    def wants_more(self) -> bool:
        if self.ending:
            return False
        if self.unlaunched:
            return True
        if self.left > 0 and self.nothing_left is None and self.context.drawer.exhausted:
            self.nothing_left = "every point of the space that can be run was tried"
        return self.left > 0 and self.nothing_left is None

    def look_outside(self) -> None:
        """Ends the jobs of trials that others have finished by Optuna's own means, or want ended by `search stop`."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_SECONDS
        if is_deleted(self.study):
            raise KeyError(self.study.study_name)
        states = {trial.number: trial.state for trial in self.study.get_trials(deepcopy=False)} if self.running else {}
        for run in list(self.running):
            if run.number not in states:
                raise KeyError(run.number)
            if states[run.number] != TrialState.RUNNING:
                self.finish_from_outside(run)
            elif self.context.directory.stop_request(run.number):
                run.prune("ended by `search stop`")

    def finish_from_outside(self, run: TrialRun) -> None:
        """A trial that others have finished: its job is ended, and the state that they gave it stays."""
        run.end_now()
        self.release(run)
        trial_now = frozen_trial(self.study, run.number)
        value = f" with value {number(trial_now.value)}" if trial_now.value is not None else ""
        self.context.display.event(
            f"trial {run.number} was finished from outside as {trial_now.state.name.lower()}{value}: its job was ended"
        )

    def end_without_study(self) -> None:
        """Somebody has deleted the study: nothing can be recorded any more, so nothing may run on."""
        for run in list(self.running):
            run.end_now()
            self.release(run)
        self.deleted = (
            f"study {self.context.config.study.name} was deleted from its storage while it ran: its jobs were ended"
        )

    def release(self, run: TrialRun) -> None:
        super().release(run)
        tidy(run.directory, self.context.config.trial.keep)

    def start_next(self) -> None:
        if self.unlaunched:
            self.launch(self.unlaunched.pop())
            return
        self.left -= 1
        trial = self.study.ask()
        # Before anything else: a driver that dies from here on knows the trial for its own when it comes back.
        trial.set_user_attr(OWNER, owner_of(self.context, trial.number))
        self.launch(trial)

    def launch(self, trial: optuna.Trial) -> None:
        """Draws the parameters of a trial and starts its first seed on slots of its own."""
        try:
            stored = self.context.drawer.draw(trial)
        except BadInput as error:
            self.refuse(trial, str(error))
            return
        except NothingLeft as error:
            self.nothing_left = str(error)
            self.refuse(trial, self.nothing_left)
            return
        except (UpdateFinishedTrialError, ValueError) as error:
            if frozen_trial(self.study, trial.number).state.is_finished():  # finished before it had begun
                self.context.display.event(f"trial {trial.number} was finished from outside before it began")
            else:  # trials that others have added have parameters of these names that Optuna lets nothing beside
                self.nothing_left = f"its storage takes no parameters of this space: {first_line(error)}"
                self.refuse(trial, self.nothing_left)
            return
        lease = self.context.slots.lease(self.ranks)
        assert lease is not None
        try:
            self.start(trial, self.context.space.settings(stored), lease)
        except UpdateFinishedTrialError:
            self.context.slots.give_back(lease)
            self.context.display.event(f"trial {trial.number} was finished from outside before it began")

    def start(self, trial: optuna.Trial, settings: dict[str, Any], lease: Lease) -> None:
        """Records what the trial is, and starts its job; UpdateFinishedTrialError where others have finished it."""
        directory = TrialDir(self.context.directory.trial(trial.number))
        set_aside(directory.path)
        write_text(
            directory.path / "config.toml", self.context.runner.task.describe(settings, self.context.objective.seeds[0])
        )
        notes = {
            "settings": settings,
            "ranks": self.ranks,
            "hosts": lease.host_names,
            "slots": lease.environment,
            "seeds": list(self.context.objective.seeds),
        }
        for key, value in notes.items():
            trial.set_user_attr(key, value)
        run = TrialRun(trial, settings, directory, lease, self.context.objective, self.context.runner)
        run.start()
        self.running.append(run)
        self.context.display.event(f"trial {run.number} started on {lease.environment}: {self.shown(run)}")

    def refuse(self, trial: optuna.Trial, why: str) -> None:
        """A trial that cannot be run, such as one that was queued with values out of range, costs none of those asked
        for, and the sampler learns nothing from it."""
        self.left += 1
        why = why if len(why) <= LONGEST_REASON else why[:LONGEST_REASON] + "…"
        try:
            trial.set_user_attr(OUTCOME, "invalid")
            trial.set_user_attr("reason", why)
            self.study.tell(trial, state=TrialState.FAIL)
        except (UpdateFinishedTrialError, ValueError):
            pass  # others have finished it already
        self.context.display.event(f"trial {trial.number} cannot be run: {why}")

    def watch(self, run: TrialRun) -> None:
        reported_before = bool(run.reports)
        try:
            end = run.poll()
        except UpdateFinishedTrialError:
            self.finish_from_outside(run)
            return
        for notice in run.notices:
            self.context.display.event(f"trial {run.number} {notice}")
        run.notices.clear()
        if run.reports and not reported_before:
            self.failure_streak.reset()
        if end is not None:
            self.finish(run, end)

    def finish(self, run: TrialRun, end: End) -> None:
        """The trial is over: its slots are free, the study knows how it ended."""
        try:
            record_outcome(self.study, run, end, self.context.config.objective.on_divergence)
        except UpdateFinishedTrialError:
            self.finish_from_outside(run)
            return
        self.release(run)
        self.context.display.event(describe(run, end))
        if end.lost_host is not None and self.without_host(run, end.lost_host):
            return
        if end.status != "failed":
            self.failure_streak.reset()
        elif not run.reports:
            self.failure_streak.add(end)

    def without_host(self, run: TrialRun, host: str) -> bool:
        """A host was lost: the study continues on the others, and the trial's parameters are queued again. False where
        it is not one of those that can be left out."""
        slots = self.context.slots
        known = slots.leave_out(host)
        if known is None:
            return False
        self.left += enqueue_again(self.study, frozen_trial(self.study, run.number))
        self.context.display.event(
            f"host {known} is left out for the rest of this run: {slots.total} slots remain; the parameters of trial "
            f"{run.number} are queued again"
        )
        if slots.total < self.ranks:
            self.failure_streak.cause = (
                f"hosts were lost, and those that are left have {slots.total} slots for {self.ranks} ranks"
            )
        return True

    def shown(self, run: TrialRun) -> str:
        return ", ".join(f"{name} = {value}" for name, value in self.context.space.shown(run.params).items())

    def summary(self) -> str:
        return f"{plural(self.left, 'more trial')} to come"

    def row(self, run: TrialRun) -> Row:
        step = max(run.reports, default=None)
        value = None if step is None else run.reports[step]
        return Row(str(run.number), run.state, self.shown(run), step, value, time.time() - run.began)


def set_aside(path: Path) -> None:
    """Another trial's directory, whose record was lost with the last commits before the machine went down."""
    if (path / "job.json").exists():
        kept = path.with_name(f"lost-{path.name}")
        shutil.rmtree(kept, ignore_errors=True)
        path.rename(kept)


def describe(run: TrialRun, end: End) -> str:
    """The end of a trial as one line for people."""
    step = max(run.reports, default=None)
    at = "before its first report" if step is None else f"at step {step} with value {number(run.reports[step])}"
    took = f"after {duration(time.time() - run.began)}"
    match end.status:
        case "done":
            return f"trial {run.number} done with value {number(end.value)} {took}"
        case "pruned":
            return f"trial {run.number} pruned {at} {took}" + (f" ({end.reason})" if end.reason else "")
        case "diverged":
            return f"trial {run.number} diverged {at} {took}: {end.reason}"
        case "stopped":
            return f"trial {run.number} stopped {at}; its parameters are queued again"
        case "failed":
            return f"trial {run.number} failed {at} {took}: {end.reason}"
