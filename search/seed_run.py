"""One run: one configuration with one seed, as one job of all its ranks; watched, asked to stop, ended."""

from __future__ import annotations

import re
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.launching import Job, Launcher, Outcome, RunningJob
from harness.lifecycle.heartbeat import Watch, forget_beats
from search.config import TrialSettings
from search.judging import End, Traces, judge
from search.slots import Lease
from search.task import Task
from search.trial_dir import TrialDir

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
        return judge(Traces(result, self.speaks_for_all, failure, outcome, self.asked, cut, reported))

    @property
    def _ranks(self) -> int:
        return sum(host.slots for host in self.job.hosts)


class Runner:
    """Starts runs as jobs, and finds again those that another driver started."""

    def __init__(self, name: str, task: Task, launcher: Launcher, limits: TrialSettings) -> None:
        self.name = ID_SAFE.sub("-", name)
        self.task = task
        self.launcher = launcher
        self.limits = limits

    def start(
        self,
        directory: TrialDir,
        index: int,
        seed: int,
        settings: Mapping[str, Any],
        lease: Lease,
        episodes: int | None = None,
    ) -> SeedRun:
        """Starts the run of the seed with this index on the leased slots."""
        output = directory.seed_path(index)
        job = Job(
            command=self.task.command(settings, seed, output, episodes),
            ranks=self.limits.ranks,
            hosts=lease.hosts,
            env={
                **self.task.environment,
                **directory.environment(index),
                "HARNESS_SLOTS": lease.environment,
                "PYTHONUNBUFFERED": "1",
            },
            run_id=f"{self.name}-{directory.path.name}-{index}-{uuid.uuid4().hex[:8]}",
            output=directory.output(index),
            cwd=Path.cwd(),
        )
        # Noted before it starts: a driver that dies in between leaves a run id by which all of the job can be ended.
        noted = {"run_id": job.run_id, "lease": lease.to_json(), "job": unborn(job)}
        directory.write_job(index, noted)
        forget_beats(output)
        running = self.launcher.start(job)
        directory.write_job(index, {**noted, "job": running.save()})
        return SeedRun(directory, index, running, self.limits, self.task.speaks_for_all)

    def find(self, directory: TrialDir, index: int) -> SeedRun:
        """The run of the seed with this index, running or over; `BadInput` where its job belongs to another host."""
        noted = {**directory.jobs[index]["job"], "output": str(directory.output(index))}  # the directory may have moved
        job = RunningJob.find(noted)
        return SeedRun(directory, index, job, self.limits, self.task.speaks_for_all)


def unborn(job: Job) -> dict[str, Any]:
    """A job as `RunningJob.save` would have it if its launcher had died at once."""
    return {
        "launcher": "",
        "pid": -1,
        "start_time": None,
        "run_id": job.run_id,
        "host": socket.gethostname(),
        "hosts": [{"name": host.name, "slots": host.slots} for host in job.hosts],
        "output": str(job.output),
        "output_start": 0,
    }
