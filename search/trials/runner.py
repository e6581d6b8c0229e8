"""Starts the runs of trials, and finds those that an earlier driver started."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.launching import JobSpec, Launcher, find_job
from harness.lifecycle.heartbeat import clear_heartbeats
from search.config import TrialSettings
from search.launchers.lease import Lease
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
        spec = JobSpec(
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
        # Saved before it starts: a driver that dies in between leaves a run id by which all of the job can be ended.
        saved = {"run_id": spec.run_id, "lease": lease.to_json(), "job": self.launcher.before_start(spec)}
        directory.write_job(index, saved)
        clear_heartbeats(output)
        job = self.launcher.start(spec)
        directory.write_job(index, {**saved, "job": job.save()})
        return SeedRun(directory, index, job, self.limits, self.task.speaks_for_all)

    def find(self, directory: TrialDir, index: int) -> SeedRun:
        """The run of the seed with this index, running or over; `BadInput` where its job belongs to another host."""
        # its launcher may be another than this study has now, and its directory may have moved
        saved = {**directory.jobs[index]["job"], "output": str(directory.output(index))}
        return SeedRun(directory, index, find_job(saved), self.limits, self.task.speaks_for_all)
