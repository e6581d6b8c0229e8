"""Starts the runs of trials, and finds those that an earlier driver started."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.launching import Job, Launcher, RunningJob
from harness.lifecycle.heartbeat import clear_heartbeats
from search.config import TrialSettings
from search.launchers.slots import Lease
from search.trial_dir import TrialDir
from search.trials.seed_run import ID_SAFE, SeedRun
from search.trials.task import Task


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
        clear_heartbeats(output)
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
