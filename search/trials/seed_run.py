"""One run: one configuration with one seed, as one job of all its ranks; under watch, asked to stop, ended."""

from __future__ import annotations

import re
from collections.abc import Callable

from harness.launching import Job, Outcome
from harness.run.supervision import Overdue, Supervision
from search.config import TrialSettings
from search.trial_dir import TrialDir
from search.trials.outcome import End, Evidence, classify

ID_SAFE = re.compile(r"[^A-Za-z0-9._-]+")  # a run id goes through shells and other hosts
KILL_GRACE_SECONDS = 1.0  # of a job that has had its grace already


class SeedRun:
    """A run whose job was started, by this driver or by an earlier one."""

    def __init__(self, directory: TrialDir, seed: int, job: Job, limits: TrialSettings, speaks_for_all: bool) -> None:
        self.directory = directory
        self.seed = seed
        self.job = job
        self.limits = limits
        self.speaks_for_all = speaks_for_all
        longest = limits.max_minutes * 60
        self._supervision = Supervision(
            job, directory.seed_path(seed), longest, grace_seconds=limits.grace_seconds, silence_seconds=longest
        )
        self.asked = directory.read_verdict(seed)
        """`pruned` or `stopped` where it was asked to stop."""
        if self.asked is not None:
            self._supervision.request_stop(by_signal=self.asked == "stopped")

    def heard(self) -> None:
        """It has reported: the time until it must report again restarts."""
        self._supervision.heard()

    def ask_to_stop(self, why: str) -> None:
        """`pruned` or `stopped`: by the verdict, which the ranks read at a step boundary.

        A driver that is to stop signals the ranks too: the verdict waits for a boundary, a signal for nothing.
        """
        if self.asked is None:
            self.directory.write_verdict(why, self.seed)
            self.asked = why
            self._supervision.request_stop(by_signal=why == "stopped")

    def poll(self, read_reports: Callable[[], None] = lambda: None) -> End | None:
        """How the run ended; None while it runs. Ends one that does not stop when asked, hangs, or timed out.

        `read_reports` is called between the two: when the job is over all that it reported is there, and only reports
        that were read say whether it timed out (this driver may have been away).
        """
        outcome = self.job.poll()
        read_reports()
        if outcome is not None:
            if outcome.exit_code != 0:
                self.job.end()  # what a launcher that failed left behind
            return self._classify(outcome, None)
        overdue = self._supervision.overdue()
        return None if overdue is None else self.end_now(self._why(overdue))

    def end_now(self, why: str) -> End:
        """Ends the job without waiting for it; `result.json` still counts where it is there."""
        problems = self.job.end(grace=KILL_GRACE_SECONDS)
        return self._classify(None, "; ".join([why, *problems]))

    def _why(self, overdue: Overdue) -> str:
        hang = self._supervision.hang
        if overdue is Overdue.HANG and hang is not None:
            return f"rank {hang.rank} on {hang.host} {hang.cause}"
        if overdue is Overdue.STOP:
            return f"did not stop within {self.limits.grace_seconds:g} s of being asked"
        why = f"reported nothing for {self.limits.max_minutes:g} minutes (trial.max_minutes)"
        complaint = self.job.complaint()
        return f"{why}; {complaint}" if complaint else why

    def _classify(self, outcome: Outcome | None, cut: str | None) -> End:
        result, failure = self.directory.result(self.seed), self.directory.failure(self.seed)
        reported = self.directory.last.get(self.seed)
        return classify(Evidence(result, self.speaks_for_all, failure, outcome, self.asked, cut, reported))
