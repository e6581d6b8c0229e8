"""Ranks of a command as a job: what is to be started, what starts it, and the job that runs.

launcher = get_launcher("horovodrun")
launcher.check(hosts)                 # BadInput where it cannot work here
job = launcher.start(spec)            # returns at once
write_json(path, job.save())          # after a restart of this process, find_job(read_json(path)) attaches to it
while (outcome := job.poll()) is None: …
job.request_stop(); job.end()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cluster.hosts import Host
from harness.cluster.slots import local_slots
from harness.launching.outcome import Outcome


@dataclass(frozen=True)
class JobSpec:
    """N ranks of a command, to be started.

    hosts: with the slots that this job may use, filled in order. env: added to this process's scrubbed environment, on
    every host. output: what launcher and ranks print is appended to it, lines tagged with the rank.
    """

    command: tuple[str, ...]
    ranks: int
    hosts: tuple[Host, ...]
    env: Mapping[str, str]
    run_id: str
    output: Path
    cwd: Path


class Job(ABC):
    """A job that was started, by this process or by an earlier one."""

    run_id: str

    @abstractmethod
    def poll(self) -> Outcome | None:
        """How the job ended, None while it runs. Never blocks."""

    @abstractmethod
    def request_stop(self) -> int:
        """Asks each rank that listens to stop, on all hosts; how many this call has reached.

        Each rank is asked once: where fewer than all were listening yet (imports take seconds), call again later.
        """

    @abstractmethod
    def state_of(self, rank: int, host: str, pid: int) -> str:
        """`running`, `stopped` or `gone`: process `pid` of a rank on `host`, as that calls itself. In other words why
        the host does not say."""

    @abstractmethod
    def last_lines(self, rank: int) -> tuple[str, ...]:
        """The last lines that a rank printed."""

    @abstractmethod
    def rank_hosts(self) -> list[str]:
        """The host of each rank, as it calls itself where that is this one."""

    @abstractmethod
    def end(self, grace: float = 5.0) -> list[str]:
        """Ends the job: after at most `grace` seconds nothing of it is left on any host.

        A line for each host where that could not be brought about or seen. Safe to call on a job that is over, and
        worth it after any failure.
        """

    @abstractmethod
    def save(self) -> dict[str, Any]:
        """What `Launcher.find` needs, as JSON holds it; `launcher` is the launcher's name."""

    def descriptor(self) -> int | None:
        """A file descriptor that is readable once the job is over; None where there is none to wait for."""
        return None

    def complaint(self) -> str | None:
        """What a rank of a job that makes no progress printed about it, None where it printed nothing."""
        return None


class Launcher(ABC):
    """Starts N ranks of a command. A new one is a file with this class and a line in the registry."""

    name: str
    """By which the registry finds it; of a user's own it is `module:Class`."""
    carries_mpi: bool = False
    """Whether its ranks can send messages by MPI."""
    elastic: bool = False
    """Whether a job continues with fewer ranks when it loses one."""

    @property
    def told(self) -> str:
        """Its name, and what users should know beside it."""
        return self.name

    @abstractmethod
    def check(self, hosts: Sequence[Host] = ()) -> None:
        """BadInput, with the remedy, where this launcher cannot work here, or not on `hosts`. Starts nothing."""

    @abstractmethod
    def start(self, spec: JobSpec) -> Job:
        """Starts the ranks and returns. BadInput for more ranks than slots."""

    @abstractmethod
    def find(self, saved: Mapping[str, Any]) -> Job:
        """The job that `Job.save` or `before_start` described, running or over. BadInput where it cannot be seen from
        this host."""

    @abstractmethod
    def before_start(self, spec: JobSpec) -> dict[str, Any]:
        """What to save before `start`: by it `find` gives the job of a driver that died while it called `start`."""

    def capacity(self, hosts: Sequence[Host], ranks: int = 1, cores: int = 1) -> tuple[Host, ...]:
        """The slots, by host, that all jobs of `ranks` ranks together may use: of `hosts`, and where there are none, of
        this machine, whose slots are shares of `cores` cores."""
        return tuple(hosts) or (Host("localhost", local_slots(cores, ranks)),)

    def refresh(self, jobs: Iterable[Job]) -> None:
        """Called before each round of `poll` over `jobs`: a launcher that asks a cluster does so once for all."""

    def open(self, ranks: int) -> None:
        """Called before the first of many starts of so many ranks: what takes its time for them may begin now."""

    def notices(self) -> list[str]:
        """Lines for the user, about all jobs, since the last call."""
        return []

    def close(self) -> None:
        """Called after the last start; jobs that run go on."""
