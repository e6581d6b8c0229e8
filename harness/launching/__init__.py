"""From one process to N ranks: hosts and slots, launchers behind one interface, and how a job ended."""

from __future__ import annotations

from collections.abc import Callable

from harness.cluster.hosts import Host, available_hosts, local_hosts, read_hosts, slurm_hosts, take_slots
from harness.errors import BadInput
from harness.launching.base import Job, Launcher, RunningJob
from harness.launching.environment import inside_launcher
from harness.launching.horovodrun import GLOO, MPI, ElasticHorovodrun, Horovodrun
from harness.launching.mpirun import Mpirun
from harness.launching.outcome import Outcome

__all__ = [
    "ElasticHorovodrun",
    "Host",
    "Job",
    "Launcher",
    "Outcome",
    "RunningJob",
    "available_hosts",
    "get_launcher",
    "inside_launcher",
    "launcher_names",
    "local_hosts",
    "read_hosts",
    "slurm_hosts",
    "take_slots",
]

LAUNCHERS: dict[str, Callable[[], Launcher]] = {
    "horovodrun": lambda: Horovodrun("horovodrun", MPI),
    "horovodrun-gloo": lambda: Horovodrun("horovodrun-gloo", GLOO),
    "mpirun": Mpirun,
}


def launcher_names() -> list[str]:
    return list(LAUNCHERS)


def get_launcher(name: str) -> Launcher:
    """The launcher of a name; BadInput for another. `check` it before the first start."""
    if name not in LAUNCHERS:
        raise BadInput(f"launcher must be one of {', '.join(LAUNCHERS)}, got {name!r}")
    return LAUNCHERS[name]()
