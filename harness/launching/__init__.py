"""From one process to N ranks: hosts and slots, launchers behind one interface, and how a job ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.cluster.hosts import Host, available_hosts, claim_slots, local_hosts, read_hosts, slurm_hosts
from harness.errors import BadInput
from harness.launching.base import Job, JobSpec, Launcher
from harness.launching.environment import inside_launcher
from harness.launching.horovodrun import GLOO, MPI, ElasticHorovodrun, Horovodrun
from harness.launching.mpirun import Mpirun
from harness.launching.outcome import Outcome
from harness.launching.pool import Pool, can_be_had
from harness.launching.process_job import ProcessJob, ProcessLauncher
from harness.settings import named_object

__all__ = [
    "ElasticHorovodrun",
    "Host",
    "Job",
    "JobSpec",
    "Launcher",
    "Outcome",
    "Pool",
    "ProcessJob",
    "ProcessLauncher",
    "available_hosts",
    "can_be_had",
    "find_job",
    "get_launcher",
    "inside_launcher",
    "launcher_names",
    "local_hosts",
    "read_hosts",
    "slurm_hosts",
    "claim_slots",
]

LAUNCHERS: dict[str, Callable[[], Launcher]] = {
    "horovodrun": lambda: Horovodrun("horovodrun", MPI),
    "horovodrun-gloo": lambda: Horovodrun("horovodrun-gloo", GLOO),
    "mpirun": Mpirun,
    "pool": lambda: Pool("pool", Horovodrun("horovodrun", MPI)),
    "pool-gloo": lambda: Pool("pool-gloo", Horovodrun("horovodrun-gloo", GLOO)),
    "pool-mpirun": lambda: Pool("pool-mpirun", Mpirun()),
}


def launcher_names() -> list[str]:
    return list(LAUNCHERS)


def get_launcher(name: str) -> Launcher:
    """The launcher of a name or of a user's `module:Class`; BadInput for another. `check` it before its first start."""
    if name in LAUNCHERS:
        return LAUNCHERS[name]()
    if ":" not in name:
        raise BadInput(f"launcher must be one of {', '.join(LAUNCHERS)}, or module:Class of your own, got {name!r}")
    made = named_object(name, "launcher")
    if not (isinstance(made, type) and issubclass(made, Launcher)):
        raise BadInput(f"launcher {name}: it is no class that derives from harness.launching.Launcher")
    launcher = made()
    launcher.name = name
    return launcher


def find_job(saved: Mapping[str, Any]) -> Job:
    """The job that `Job.save` or `Launcher.before_start` described, running or over."""
    # a release ago, what was saved before a start named no launcher: all jobs were processes
    return get_launcher(saved["launcher"] or "mpirun").find(saved)
