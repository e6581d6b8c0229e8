"""One event loop: ask -> launch -> watch -> tell, for as many trials at once as there are slots. Restartable."""

from __future__ import annotations

import time

import optuna
from optuna.trial import TrialState

from harness.errors import BadInput
from harness.files import write_text
from search.display import Row, duration, number
from search.finding import find_again
from search.judging import End
from search.plan import Plan
from search.samplers import is_exhausted
from search.study import OUTCOME, OWNER, enqueue_again, frozen_trial
from search.telling import Faults, tell
from search.tools import Tools
from search.trial_dir import TrialDir
from search.trial_run import TrialRun

POLL_SECONDS = 0.1


class Driver:
    """Runs trials until the plan is fulfilled, a stop is requested, or the same fault came three times in a row."""

    def __init__(self, tools: Tools) -> None:
        self.tools = tools
        self.study = tools.study
        self.ranks = tools.config.trial.ranks
        self.running: list[TrialRun] = []
        self.unborn: list[optuna.Trial] = []
        """Trials that were asked for by a driver that died before it launched them."""
        self.left = 0
        self.faults = Faults()

    def run(self, plan: Plan) -> None:
        self.running, self.unborn = find_again(self.tools)
        self.left = plan.left(len(self.running) + len(self.unborn))
        while self.running or self.wants_more():
            self.obey()
            self.fill_slots()
            for run in list(self.running):
                self.watch(run)
            self.tools.display.rows([self.row(run) for run in self.running], f"{self.left} more trials to come")
            time.sleep(POLL_SECONDS)

    @property
    def ending(self) -> bool:
        """Whether nothing more is to be started."""
        return self.tools.stop.count > 0 or self.faults.cause is not None

    def wants_more(self) -> bool:
        if self.ending:
            return False
        return bool(self.unborn) or self.left > 0 and not is_exhausted(self.study)

    def obey(self) -> None:
        """Asks the trials to stop once there is a reason to; ends them when asked a second time."""
        if self.ending:
            for run in list(self.running):
                run.ask_to_stop()
                if self.tools.stop.count > 1:
                    self.finish(run, run.end_now())

    def fill_slots(self) -> None:
        while self.tools.slots.free >= self.ranks and self.wants_more():
            if self.unborn:
                self.launch(self.unborn.pop())
                continue
            self.left -= 1
            trial = self.study.ask()
            # Before anything else: a driver that dies from here on knows the trial for its own when it comes back.
            trial.set_user_attr(OWNER, str(self.tools.directory.trial(trial.number)))
            self.launch(trial)

    def launch(self, trial: optuna.Trial) -> None:
        """Samples the parameters of a trial and starts its first seed on slots of its own."""
        stored = self.tools.space.suggest(trial)
        settings = self.tools.space.settings(stored)
        trial.set_user_attr("settings", settings)
        try:
            self.tools.runner.task.check_settings(settings, self.ranks)
        except BadInput as error:
            self.refuse(trial, str(error))
            return
        lease = self.tools.slots.lease(self.ranks)
        assert lease is not None
        directory = TrialDir(self.tools.directory.trial(trial.number))
        write_text(
            directory.path / "config.toml", self.tools.runner.task.describe(settings, self.tools.objective.seeds[0])
        )
        notes = {
            "ranks": self.ranks,
            "hosts": lease.host_names,
            "slots": lease.environment,
            "seeds": list(self.tools.objective.seeds),
        }
        for key, value in notes.items():
            trial.set_user_attr(key, value)
        run = TrialRun(trial, settings, directory, lease, self.tools.objective, self.tools.runner)
        run.start()
        self.running.append(run)
        self.tools.display.event(f"trial {run.number} started on {lease.environment}: {self.shown(run)}")

    def refuse(self, trial: optuna.Trial, why: str) -> None:
        """Settings that do not go together are an outcome: told as pruned, so that the sampler learns to keep away."""
        trial.set_user_attr(OUTCOME, "invalid")
        trial.set_user_attr("reason", why)
        self.study.tell(trial, state=TrialState.PRUNED)
        self.tools.display.event(f"trial {trial.number} cannot be run: {why}")

    def watch(self, run: TrialRun) -> None:
        reported_before = bool(run.reports)
        end = run.poll()
        if run.reports and not reported_before:
            self.faults.none_here()
        if end is not None:
            self.finish(run, end)

    def finish(self, run: TrialRun, end: End) -> None:
        """The trial is over: its slots are free, the study knows how it ended."""
        self.running.remove(run)
        self.tools.slots.give_back(run.lease)
        tell(self.study, run, end, self.tools.config.objective.on_divergence)
        self.tools.display.event(describe(run, end))
        if end.lost_host is not None and self.without_host(run, end.lost_host):
            return
        if end.status != "failed":
            self.faults.none_here()
        elif not run.reports:
            self.faults.failed(end)

    def without_host(self, run: TrialRun, host: str) -> bool:
        """A host went: the study goes on with the others, and the trial's parameters are queued again. False where it
        is none of ours to leave out."""
        slots = self.tools.slots
        known = slots.leave_out(host)
        if known is None:
            return False
        self.left += enqueue_again(self.study, frozen_trial(self.study, run.number))
        self.tools.display.event(
            f"host {known} is left out for the rest of this run: {slots.total} slots remain; the parameters of trial "
            f"{run.number} are queued again"
        )
        if slots.total < self.ranks:
            self.faults.cause = f"hosts went, and those that are left have {slots.total} slots for {self.ranks} ranks"
        return True

    def shown(self, run: TrialRun) -> str:
        return ", ".join(f"{name} = {value}" for name, value in self.tools.space.shown(run.params).items())

    def row(self, run: TrialRun) -> Row:
        step = max(run.reports, default=None)
        value = None if step is None else run.reports[step]
        return Row(str(run.number), run.state, self.shown(run), step, value, time.time() - run.began)


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
