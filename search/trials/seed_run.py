"""One run: one configuration with one seed, as one job of all its ranks; watched, asked to stop, ended."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from harness.launching import Outcome, RunningJob
from harness.lifecycle.watchdog import Watch
from search.config import TrialSettings
from search.trial_dir import TrialDir
from search.trials.outcome import End, Evidence, classify

STOP_AGAIN_SECONDS = 1.0
ID_SAFE = re.compile(r"[^A-Za-z0-9._-]+")  # a run id goes through shells and other hosts
KILL_GRACE_SECONDS = 1.0  # of a job that has had its grace already


class SeedRun:
    """A run whose job was started, by this driver or by one before it."""

    def __init__(
        self, directory: TrialDir, seed: int, job: RunningJob, limits: TrialSettings, speaks_for_all: bool
    ) -> None:
        self.directory = directory
        self.seed = seed
        self.job = job
        self.limits = limits
        self.speaks_for_all = speaks_for_all
        self.asked = directory.read_verdict(seed)
        self._asked_at = self._heard_at = time.monotonic()
        self._signalled_at = 0.0
        self._reached = 0
        silence = limits.max_minutes * 60
        self._watch = Watch(directory.seed_path(seed), silence, lambda it: job.state_of(it.rank, it.host, it.pid))

    def heard(self) -> None:
        """It has reported: the time in which it must do so again begins anew."""
        self._heard_at = time.monotonic()

    def ask_to_stop(self, why: str) -> None:
        """`pruned` or `stopped`: by the verdict, which the ranks read at a step boundary."""
        if self.asked is None:
            self.directory.write_verdict(why, self.seed)
            self.asked, self._asked_at = why, time.monotonic()

    def poll(self, read_reports: Callable[[], None] = lambda: None) -> End | None:
        """How the run ended; None while it runs. Ends one that does not stop when asked, or is silent for too long.

        `read_reports` is called between the two: when the job is over all that it reported is there, and only reports
        that were read tell whether it is silent (this driver may have been away).
        """
        outcome = self.job.poll()
        read_reports()
        if outcome is not None:
            if outcome.exit_code != 0:
                self.job.end()  # what a launcher that failed left behind
            return self._judge(outcome, None)
        now = time.monotonic()
        if self.asked is not None and now - self._asked_at > self.limits.grace_seconds:
            return self.end_now(f"did not stop within {self.limits.grace_seconds:g} s of being asked")
        if (hang := self._watch.look()) is not None:
            return self.end_now(f"rank {hang.rank} on {hang.host} {hang.cause}")
        if now - self._heard_at > self.limits.max_minutes * 60:
            said = self.job.complaint()
            why = f"reported nothing for {self.limits.max_minutes:g} minutes (trial.max_minutes)"
            return self.end_now(f"{why}; {said}" if said else why)
        if self.asked == "stopped" and now - self._signalled_at > STOP_AGAIN_SECONDS and self._reached < self._ranks:
            self._reached += self.job.request_stop()  # the verdict waits for a step boundary, a signal for nothing
            self._signalled_at = now
        return None

    def end_now(self, why: str) -> End:
        """Ends the job without waiting for it; `result.json` still counts where it is there."""
        problems = self.job.end(grace=KILL_GRACE_SECONDS)
        return self._judge(None, "; ".join([why, *problems]))

    def _judge(self, outcome: Outcome | None, cut: str | None) -> End:
        result, failure = self.directory.result(self.seed), self.directory.failure(self.seed)
        reported = self.directory.last.get(self.seed)
        return classify(Evidence(result, self.speaks_for_all, failure, outcome, self.asked, cut, reported))

    @property
    def _ranks(self) -> int:
        return sum(host.slots for host in self.job.hosts)
