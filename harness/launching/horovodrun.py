"""Ranks under horovodrun: on MPI it becomes `sh -c mpirun …`, on Gloo it starts them itself (elsewhere by ssh)."""

from __future__ import annotations

import importlib.util
import mmap
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.cluster.hosts import Host
from harness.cluster.place import host_name
from harness.errors import BadInput
from harness.files import write_text
from harness.launching import remote
from harness.launching.base import JobSpec
from harness.launching.environment import launch_environment
from harness.launching.mpirun import find_program
from harness.launching.process_job import ProcessJob, ProcessLauncher, hosts_argument

LONGEST_ENVIRONMENT = 120_000
"""Bytes, of the 128 KB that Linux takes in one word."""
# Horovod's classes of the two controllers, as the names of their types stand in its library
MPI, GLOO = b"13MPIController", b"14GlooController"


def horovod_has(controller: bytes) -> bool | None:
    """Whether the installed Horovod was built with a controller, read from its library; None where Horovod is missing.

    Horovod's own check loads torch in processes of its own, for seconds.
    """
    package = importlib.util.find_spec("horovod")
    if package is None or package.origin is None:
        return None
    for library in (Path(package.origin).parent / "torch").glob("mpi_lib*.so"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(controller) >= 0
    return None


def size_in_a_line(env: Mapping[str, str]) -> int:
    """Bytes of an environment in a shell line."""
    return sum(len(os.fsencode(f"{name}={shlex.quote(value)} ")) for name, value in env.items())


class Horovodrun(ProcessLauncher):
    """`horovodrun -np N -H host:slots … --mpi|--gloo command`. It forwards the whole environment itself."""

    def __init__(self, name: str, controller: bytes) -> None:
        self.name = name
        self._controller = controller
        self.carries_mpi = controller is MPI

    def check(self, hosts: Sequence[Host] = ()) -> None:
        found = horovod_has(self._controller)
        if found is None:
            raise BadInput(f"launcher {self.name}: Horovod is not installed for PyTorch; `make install` builds it")
        if not found:
            kind = "MPI" if self._controller is MPI else "Gloo"
            raise BadInput(
                f"launcher {self.name}: Horovod was built without {kind}; `make install` builds it with both"
            )
        find_program("horovodrun", self.name)
        if self._controller is MPI:
            find_program("mpirun", self.name)
        elif remote.others([host.name for host in hosts]):
            env = launch_environment(os.environ)
            size = size_in_a_line(env)
            if size > LONGEST_ENVIRONMENT:
                raise BadInput(
                    f"launcher {self.name} hands the environment to other hosts in one shell line, which holds at most "
                    f"{LONGEST_ENVIRONMENT // 1000} KB, and this one has {size // 1000} KB in {len(env)} variables: "
                    "choose launcher mpirun or horovodrun"
                )

    def command_line(self, spec: JobSpec, env: Mapping[str, str]) -> list[str]:
        # its cache of host checks outlives the hosts' state by up to an hour; binding to none and tags are its defaults
        command = [*self.program(self.all_here(spec, env)), "-np", str(spec.ranks), "-H", hosts_argument(spec)]
        command.append("--disable-cache")
        if self._controller is not MPI:
            return [*command, "--gloo", *spec.command]
        if remote.others([host.name for host in spec.hosts]):
            # it calls mpirun by name alone, which then takes whatever Open MPI is on the other host's PATH, if any
            prefix = Path(find_program("mpirun", self.name)).parent.parent
            command.append(f"--mpi-args=--prefix {shlex.quote(str(prefix))}")
        return [*command, "--mpi", *spec.command]

    def all_here(self, spec: JobSpec, env: Mapping[str, str]) -> bool:
        """Whether all ranks are on this host, and have its environment without being handed it."""
        return not remote.others([host.name for host in spec.hosts])

    def program(self, all_here: bool) -> list[str]:
        """horovodrun without the question that `check` has answered; as it is where it is another Python's."""
        program = find_program("horovodrun", self.name)
        if Path(program).parent == Path(sys.executable).parent:
            here = ["here"] if all_here else []
            return [sys.executable, str(Path(__file__).with_name("run_horovodrun.py")), *here]
        return [program]


class ElasticJob(ProcessJob):
    """Ranks that are gone are no fault, and a rank that is stopped is killed, so that the others continue."""

    def state_of(self, rank: int, host: str, pid: int) -> str:
        state = super().state_of(rank, host, pid)
        if state == "stopped" and host == host_name():
            os.kill(pid, signal.SIGKILL)
            return "running"
        return "running" if state == "gone" else state


class ElasticHorovodrun(Horovodrun):
    """`horovodrun --min-np … --max-np …` on Gloo: the job continues without ranks that it lost, until they return.

    The hosts are looked up once a second in `hosts.elastic` beside the job's output; whoever writes it anew changes
    them. A lost rank's host is left out for a second or two, more when that happens again.
    """

    elastic = True
    job_class = ElasticJob

    def __init__(self, least: int) -> None:
        super().__init__("horovodrun-elastic", GLOO)
        self.least = least

    def all_here(self, spec: JobSpec, env: Mapping[str, str]) -> bool:
        """Other hosts may come, which an environment that is too large could not be handed to in any case."""
        return super().all_here(spec, env) and size_in_a_line(env) > LONGEST_ENVIRONMENT

    def command_line(self, spec: JobSpec, env: Mapping[str, str]) -> list[str]:
        hosts = spec.output.parent.resolve() / "hosts.elastic"
        write_hosts(hosts, spec.hosts)
        lookup = hosts.with_name("hosts.elastic.sh")
        lookup.write_text(f"#!/bin/sh\nexec cat {shlex.quote(str(hosts))}\n")
        lookup.chmod(0o755)
        numbers = ["-np", str(self.least), "--min-np", str(self.least), "--max-np", str(spec.ranks)]
        command = [*self.program(self.all_here(spec, env)), *numbers, "--disable-cache"]
        command += ["--host-discovery-script", str(lookup), "--blacklist-cooldown-range", "1", "2"]
        if not remote.others([host.name for host in spec.hosts]):
            command += ["--network-interfaces", "lo"]
        return [*command, "--gloo", *spec.command]


def write_hosts(path: Path, hosts: Sequence[Host]) -> None:
    """One slot or more of each host, a line each; slots of this machine alone are shared out between two names of it.

    Horovod leaves out the whole host that lost a rank, and would then have none.
    """
    if not remote.others([host.name for host in hosts]):
        slots = sum(host.slots for host in hosts)
        shares = (Host("localhost", slots - slots // 2), Host("127.0.0.1", slots // 2))
        hosts = [host for host in shares if host.slots]
    write_text(path, "".join(f"{host.name}:{host.slots}\n" for host in hosts))
