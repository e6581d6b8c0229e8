"""One running trial of the study: its seeds in turn on the same slots, its reports to the pruner, its end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import optuna

from harness.launching import Job
from search.launchers.lease import Lease
from search.study.objective import Objective
from search.trial_dir import Report, TrialDir
from search.trials.outcome import End
from search.trials.runner import Runner
from search.trials.seed_run import SeedRun

LARGEST_STEP = 2**31 - 1  # what every database has for a step


class TrialRun:
    """`start` or `attach` it, then `poll` until it gives an end."""

    def __init__(
        self,
        trial: optuna.Trial,
        settings: Mapping[str, Any],
        directory: TrialDir,
        lease: Lease,
        objective: Objective,
        runner: Runner,
    ) -> None:
        self.trial = trial
        self.settings = settings
        self.directory = directory
        self.lease = lease
        self.objective = objective
        self.runner = runner
        self.values: list[float] = []
        """Of the seeds that are done."""
        self.diverged: str | None = None
        self.pruned_because: str | None = None
        """Why this driver ends it as pruned, where no pruner does."""
        self._noticed = False
        self.notices: list[str] = []
        """Lines for the user: each begins where `trial 3` ends."""
        self.stopping = False
        self.params = trial.params
        """As the study stores them."""
        frozen = trial.storage.get_trial(trial._trial_id)
        self.reports: dict[int, float] = dict(frozen.intermediate_values)
        """Optuna's step -> value."""
        self.began = frozen.datetime_start.timestamp() if frozen.datetime_start else time.time()
        """Also of a trial that an earlier driver started."""
        self._run: SeedRun | None = None

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def state(self) -> str:
        """What it is doing, in a word."""
        if self._run is not None and self._run.asked is not None:
            return "stopping"
        return "running" if self.reports else "starting"

    @property
    def job(self) -> Job:
        """Of the seed that runs."""
        assert self._run is not None
        return self._run.job

    def start(self) -> None:
        """Starts the next seed."""
        index = len(self.values)
        seed = self.objective.seeds[index]
        self._run = self.runner.start(self.directory, index, seed, self.settings, self.lease)

    def attach(self) -> None:
        """Finds the job that an earlier driver started; it may be over."""
        index = max(self.directory.jobs)
        for earlier in range(index):
            result = self.directory.result(earlier)
            self.values.append(result.value if result and result.value is not None else math.nan)
        self._run = self.runner.find(self.directory, index)

    def seconds_trained(self) -> float:
        """Of all its seeds, as their results say."""
        results = (self.directory.result(seed) for seed in self.directory.jobs)
        return sum(result.seconds for result in results if result is not None)

    def ask_to_stop(self) -> None:
        """Because the driver is to stop: the trial is neither pruned nor failed by itself."""
        self.stopping = True
        if self._run is not None:
            self._run.ask_to_stop("stopped")

    def prune(self, why: str) -> None:
        """Asks it to stop, and it is pruned at its last report."""
        if self.pruned_because is None and self._run is not None:
            self.pruned_because = why
            self._run.ask_to_stop("pruned")

    def end_now(self) -> End:
        """Ends its job at once, because the driver must."""
        if self._run is not None:
            self._run.end_now("ended with the driver")
        return End("stopped", reason="ended with the driver")

    def poll(self) -> End | None:
        """How the trial ended; None while it runs. Never waits, but for a job that must be ended."""
        assert self._run is not None
        end = self._run.poll(self._read_reports)
        if end is None:
            minutes = self.runner.limits.max_total_minutes
            if minutes is not None and time.time() - self.began > 60 * minutes:
                self.prune(f"took more than {minutes:g} minutes (trial.max_total_minutes)")
            return None
        if end.status == "pruned" and self.pruned_because is not None and self.diverged is None:
            because = self.pruned_because + (f"; {end.reason}" if end.reason else "")
            return End("pruned", reason=because, last_lines=end.last_lines)
        if self.diverged is not None and end.status != "stopped":
            return End("diverged", reason=self.diverged, last_lines=end.last_lines)
        if end.status != "done" or end.value is None:
            return end
        self.values.append(end.value)
        if len(self.values) >= len(self.objective.seeds):  # more where the study had more seeds when it began
            return End("done", self.objective.value(self.values))
        if self._run.asked == "pruned":  # too late for this seed, but not for the next
            return End("pruned", reason=self.pruned_because or "")
        if self.stopping:
            return End("stopped", reason="stopped on request")
        self.start()
        return None

    def _read_reports(self) -> None:
        for report in self.directory.new_reports():
            self._add(report)

    def _add(self, report: Report) -> None:
        """One report: stored in the study, and shown to the pruner."""
        assert self._run is not None
        self._run.heard()
        step = self.objective.step(report.seed, report.step)
        if step is None or not 0 <= step <= LARGEST_STEP:
            most = self.objective.evaluations if step is None else LARGEST_STEP
            self._notice(f"reported evaluation {report.step}, and the study keeps 0 to {most}: it is left out")
            if report.value is not None:
                return
        if report.value is None:
            self.diverged = f"evaluation {report.step} gave a value that is not finite"
            self._run.ask_to_stop("pruned")
        elif step not in self.reports:
            assert step is not None
            self.reports[step] = report.value
            self.trial.report(report.value, step)
            if step != self.objective.steps and self._run.asked is None and self.trial.should_prune():
                self._run.ask_to_stop("pruned")

    def _notice(self, text: str) -> None:
        """Once a trial: a script that numbers its reports so does it each time."""
        if not self._noticed:
            self.notices.append(text)
            self._noticed = True
